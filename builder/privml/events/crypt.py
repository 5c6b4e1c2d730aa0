"""The encryption of a volume, and the key brokers that release its key.

A volume's filesystem is encrypted with AES-256-XTS, and dm-verity protects the ciphertext: dm-crypt is opened over
the verity device, so nothing that the host chooses is ever decrypted. The tweak of a sector is its index in sectors
of 4096 bytes (dm-crypt's ``iv_large_sectors``). The key is in no file of the image. The configuration has a check
value of it, by which a wrong key is named before anything is opened.

A sector that is added after the filesystem has known plaintext (``LAST_SECTOR``): another numbering of the sectors
leaves the first one as it is, and would be noticed by nothing but noise in what is read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.resource import MAX_RESOURCE, generation_of, resource_of
from privml.base.strictjson import Fields, canonical

CIPHER = "aes-xts-plain64"
SECTOR_SIZE = 4096
LAST_SECTOR = b"privml-volume/v1\0".ljust(SECTOR_SIZE, b"\0")
"""The plaintext of an encrypted volume's last sector."""
KEY_SIZE = 64
"""Bytes of a volume's key: two different AES-256 keys, for the data and for the tweak."""
MAX_BROKERS = 16
_BROKER = re.compile(r"\A[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_CHECK_LABEL = b"privml-key-check/v1\0"


def is_broker(text: str) -> bool:
    """True for a broker's name: words of a-z and 0-9 joined by -."""
    return len(text) <= MAX_RESOURCE and _BROKER.match(text) is not None


def check_key(key: bytes) -> None:
    """Raise ``ValueError`` unless ``key`` is usable: 64 bytes, and two different halves, as XTS requires."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"volume key: {len(key)} bytes, expected {KEY_SIZE}")
    if hmac.compare_digest(key[: KEY_SIZE // 2], key[KEY_SIZE // 2 :]):
        raise ValueError("volume key: both halves are equal, expected two different AES keys")


def check_value(resource: str, generation: int, key: bytes) -> bytes:
    """``SHA256("privml-key-check/v1\\0" || JCS([resource, generation]) || key)``, 32 bytes."""
    return hashlib.sha256(_CHECK_LABEL + canonical([resource, generation]) + key).digest()


@dataclass(frozen=True)
class Broker:
    """A key broker: its name in the configuration, and the Ed25519 public key (32 bytes) that signs its releases."""

    name: str
    ed25519: bytes

    def to_dict(self) -> dict[str, object]:
        """``{"name": s, "ed25519": hex32}``."""
        return {"name": self.name, "ed25519": self.ed25519.hex()}

    @classmethod
    def from_fields(cls, fields: Fields) -> Broker:
        """Read one; ``EvidenceError`` if it is malformed."""
        broker = cls(fields.text("name", limit=MAX_RESOURCE), fields.hexadecimal("ed25519", 32))
        fields.end()
        if not is_broker(broker.name):
            raise EvidenceError(f"{fields.path}.name: got `{broker.name}`, expected words of a-z and 0-9 joined by -")
        return broker


@dataclass(frozen=True)
class Crypt:
    """The encryption of one volume: who releases its key, the key's name and generation, and its check value."""

    broker: str
    resource: str
    generation: int
    check: bytes

    def to_dict(self) -> dict[str, object]:
        """The JSON object CRYPT (docs/ARCHITECTURE.md)."""
        return {
            "cipher": CIPHER,
            "sector_size": SECTOR_SIZE,
            "broker": self.broker,
            "resource": self.resource,
            "generation": self.generation,
            "check": self.check.hex(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Crypt:
        """Read CRYPT; ``EvidenceError`` if it is malformed, or has another cipher or sector size."""
        fields.text("cipher", one_of=(CIPHER,))
        fields.integer("sector_size", low=SECTOR_SIZE, high=SECTOR_SIZE)
        crypt = cls(
            fields.text("broker", limit=MAX_RESOURCE),
            resource_of(fields),
            generation_of(fields),
            fields.hexadecimal("check", 32),
        )
        fields.end()
        if not is_broker(crypt.broker):
            raise EvidenceError(
                f"{fields.path}.broker: got `{crypt.broker}`, expected words of a-z and 0-9 joined by -"
            )
        return crypt

    def is_key(self, key: bytes) -> bool:
        """True if ``key`` is the one that the check value was made of."""
        return hmac.compare_digest(check_value(self.resource, self.generation, key), self.check)
