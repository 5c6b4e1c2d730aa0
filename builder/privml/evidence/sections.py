"""The document sections written by the guest: header, keys, devices.

Each is canonical JSON and is hashed into the report data as transmitted (`evidence.report_data`); other encodings of
the same object are refused. Contract: docs/ARCHITECTURE.md, "Sections".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.events.gpus import MAX_GPUS, MAX_SWITCHES
from privml.events.registers import REGISTERS
from privml.events.stages import SERVE, STAGE_OF
from privml.events.variants import VARIANTS

FORMAT = "privml-attestation/v2"
MAX_SECTION = 64 * 1024

TEES = tuple(REGISTERS)
PURPOSES = tuple(STAGE_OF)
STAGES = tuple(STAGE_OF.values())

TLS_KEY = ("tls", "spki-sha256")
CHANNEL_KEY = ("channel", "ed25519")
RECEIPT_KEY = ("receipt", "ed25519")
RELEASE_USE = "release"
RELEASE_KEYS = ((RELEASE_USE, "x-wing"), (RELEASE_USE, "x25519"))
KEY_SIZES: Mapping[tuple[str, str], int] = {
    TLS_KEY: 32,
    CHANNEL_KEY: 32,
    RECEIPT_KEY: 32,
    RELEASE_KEYS[0]: 1216,
    RELEASE_KEYS[1]: 32,
}
"""Known (use, algorithm) pairs and the size of such a key in bytes."""
MAX_KEYS = 16
MAX_KEY = 2048
_NAME = re.compile(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")


@dataclass(frozen=True)
class Header:
    """The type of a document: image variant, TEE, purpose, and boot stage."""

    variant: str
    tee: str
    purpose: str = SERVE
    stage: str = STAGE_OF[SERVE]

    def encode(self) -> bytes:
        """The section's bytes."""
        return canonical(
            {
                "format": FORMAT,
                "variant": self.variant,
                "tee": self.tee,
                "purpose": self.purpose,
                "stage": self.stage,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Parse a section; ``EvidenceError`` when it is not exactly v2."""
        fields = _section(data, "header")
        fields.text("format", one_of=(FORMAT,))
        header = cls(
            variant=fields.text("variant", one_of=VARIANTS),
            tee=fields.text("tee", one_of=TEES),
            purpose=fields.text("purpose", one_of=PURPOSES),
            stage=fields.text("stage", one_of=STAGES),
        )
        fields.end()
        return header


@dataclass(frozen=True)
class Key:
    """A public key of the guest: its use, algorithm and bytes.

    Pairs of use and algorithm in `KEY_SIZES` have that size. Other pairs are passed on without any meaning.
    """

    use: str
    alg: str
    key: bytes

    def __post_init__(self) -> None:
        for name, text in (("use", self.use), ("alg", self.alg)):
            if not _NAME.match(text):
                raise EvidenceError(f"key: {name} `{text[:40]}`, expected 1 to 32 of a-z, 0-9 and -")
        size = KEY_SIZES.get((self.use, self.alg))
        if size is not None and len(self.key) != size:
            raise EvidenceError(f"key {self.use}/{self.alg}: {len(self.key)} bytes, expected {size}")
        if not 1 <= len(self.key) <= MAX_KEY:
            raise EvidenceError(f"key {self.use}/{self.alg}: {len(self.key)} bytes, expected 1 to {MAX_KEY}")


@dataclass(frozen=True)
class Keys:
    """Public keys of the guest, sorted by use and algorithm, each pair once."""

    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        if len(self.keys) > MAX_KEYS:
            raise EvidenceError(f"keys: {len(self.keys)} keys, expected at most {MAX_KEYS}")
        pairs = [(key.use, key.alg) for key in self.keys]
        if pairs != sorted(set(pairs)):
            raise EvidenceError("keys: expected them sorted by use and alg, each pair once")

    def find(self, use: str, alg: str) -> bytes | None:
        """The key of one use and algorithm, or None."""
        return next((key.key for key in self.keys if (key.use, key.alg) == (use, alg)), None)

    def encode(self) -> bytes:
        """The section's bytes."""
        keys = [{"use": key.use, "alg": key.alg, "key": key.key.hex()} for key in self.keys]
        return canonical({"v": 2, "keys": keys})

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the section's bytes, by which records and receipts name it."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> Keys:
        """Parse a section; ``EvidenceError`` when it is not exactly v2."""
        fields = _section(data, "keys")
        fields.integer("v", low=2, high=2)
        found = []
        for index, item in enumerate(fields.array("keys", limit=MAX_KEYS)):
            entry = Fields(item, f"keys.keys[{index}]")
            found.append(Key(entry.text("use", limit=32), entry.text("alg", limit=32), entry.hexadecimal("key")))
            entry.end()
        fields.end()
        return cls(tuple(found))


@dataclass(frozen=True)
class Device:
    """The evidence of one device: SHA-256 (32 bytes each) of its report and of its certificates, as transmitted."""

    evidence_sha256: bytes
    certificates_sha256: bytes


@dataclass(frozen=True)
class Devices:
    """Evidence of confidential devices, in the order of the document: GPUs, then switches."""

    gpus: tuple[Device, ...] = ()
    switches: tuple[Device, ...] = ()

    def __post_init__(self) -> None:
        for name, found, limit in (("gpus", self.gpus, MAX_GPUS), ("switches", self.switches, MAX_SWITCHES)):
            if len(found) > limit:
                raise EvidenceError(f"devices.{name}: {len(found)} items, expected at most {limit}")

    def encode(self) -> bytes:
        """The section's bytes."""
        return canonical({"v": 2, "gpus": _device_list(self.gpus), "switches": _device_list(self.switches)})

    @classmethod
    def decode(cls, data: bytes) -> Devices:
        """Parse a section; ``EvidenceError`` when it is not exactly v2."""
        fields = _section(data, "devices")
        fields.integer("v", low=2, high=2)
        found = cls(_devices(fields, "gpus", MAX_GPUS), _devices(fields, "switches", MAX_SWITCHES))
        fields.end()
        return found


def _device_list(devices: tuple[Device, ...]) -> list[dict[str, str]]:
    return [
        {"evidence_sha256": device.evidence_sha256.hex(), "certificates_sha256": device.certificates_sha256.hex()}
        for device in devices
    ]


def _devices(fields: Fields, name: str, limit: int) -> tuple[Device, ...]:
    found = []
    for index, item in enumerate(fields.array(name, limit=limit)):
        entry = Fields(item, f"devices.{name}[{index}]")
        found.append(Device(entry.hexadecimal("evidence_sha256", 32), entry.hexadecimal("certificates_sha256", 32)))
        entry.end()
    return tuple(found)


def _section(data: bytes, name: str) -> Fields:
    value: Any = loads(data, what=name, limit=MAX_SECTION)
    try:
        same = canonical(value) == data
    except ValueError as error:
        raise EvidenceError(f"{name}: {error}") from error
    if not same:
        raise EvidenceError(f"{name}: not canonical JSON")
    return Fields(value, name)
