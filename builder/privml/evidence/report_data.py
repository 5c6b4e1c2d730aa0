"""Report data v1: the 64 bytes that tie keys, devices, log and nonces to one quote.

``[0:32] = SHA256(label || SHA256(header) || root32 || SHA256(keys) || SHA256(devices) || SHA256(eventlog))`` and
``[32:64]`` zero, over the sections' bytes as transmitted (ARCHITECTURE "Report data v1"). The label is
``b"privml-report-data/v1\\0"``. Each section is canonical JSON: other spellings of the same object are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads

LABEL = b"privml-report-data/v1\0"
FORMAT = "privml-attestation/v1"
SIZE = 64
VARIANTS = ("production", "development")
PURPOSES = ("serve", "key-release")
_SECTION_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Header:
    """Who speaks and when: image variant, what the document is for, the boot stage at which it was made."""

    variant: str
    purpose: str = "serve"
    stage: str = "ready"

    def encode(self) -> bytes:
        """The section's bytes."""
        return canonical({"format": FORMAT, "variant": self.variant, "purpose": self.purpose, "stage": self.stage})

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Parse a section; ``EvidenceError`` when it is not exactly v1."""
        fields = _section(data, "header")
        fields.text("format", one_of=(FORMAT,))
        header = cls(
            variant=fields.text("variant", one_of=VARIANTS),
            purpose=fields.text("purpose", one_of=PURPOSES),
            stage=fields.text("stage", limit=32),
        )
        fields.end()
        return header


@dataclass(frozen=True)
class Keys:
    """Public keys of the guest: SHA-256 (32 bytes) of the TLS certificate's SubjectPublicKeyInfo DER.

    v1 reserves ``hpke`` and ``signing``; both are empty lists.
    """

    tls_spki_sha256: bytes

    def encode(self) -> bytes:
        """The section's bytes."""
        if len(self.tls_spki_sha256) != 32:
            raise EvidenceError(f"keys.tls_spki_sha256: {len(self.tls_spki_sha256)} bytes, expected 32")
        return canonical({"v": 1, "tls_spki_sha256": self.tls_spki_sha256.hex(), "hpke": [], "signing": []})

    @classmethod
    def decode(cls, data: bytes) -> Keys:
        """Parse a section; ``EvidenceError`` when it is not exactly v1."""
        fields = _section(data, "keys")
        fields.integer("v", low=1, high=1)
        keys = cls(tls_spki_sha256=fields.hexadecimal("tls_spki_sha256", 32))
        _empty(fields, "hpke")
        _empty(fields, "signing")
        fields.end()
        return keys


@dataclass(frozen=True)
class Devices:
    """Evidence of confidential devices. v1 carries none: both lists are empty, anything else is refused."""

    def encode(self) -> bytes:
        """The section's bytes."""
        return canonical({"v": 1, "gpus": [], "switches": []})

    @classmethod
    def decode(cls, data: bytes) -> Devices:
        """Parse a section; ``EvidenceError`` when it is not exactly v1."""
        fields = _section(data, "devices")
        fields.integer("v", low=1, high=1)
        _empty(fields, "gpus")
        _empty(fields, "switches")
        fields.end()
        return cls()


def compute(*, header: bytes, root: bytes, keys: bytes, devices: bytes, eventlog: bytes) -> bytes:
    """The 64 bytes for these sections and this nonce root (32 bytes, `evidence.merkle`)."""
    if len(root) != 32:
        raise EvidenceError(f"nonce root: {len(root)} bytes, expected 32")
    digest = hashlib.sha256(LABEL)
    for part in (_sha256(header), root, _sha256(keys), _sha256(devices), _sha256(eventlog)):
        digest.update(part)
    return digest.digest() + bytes(32)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _section(data: bytes, name: str) -> Fields:
    value: Any = loads(data, what=name, limit=_SECTION_LIMIT)
    try:
        same = canonical(value) == data
    except ValueError as error:
        raise EvidenceError(f"{name}: {error}") from error
    if not same:
        raise EvidenceError(f"{name}: not canonical JSON")
    return Fields(value, name)


def _empty(fields: Fields, key: str) -> None:
    if fields.array(key):
        raise EvidenceError(f"{fields.path}.{key}: this version knows only an empty list")
