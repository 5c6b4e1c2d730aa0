"""Key configurations of oblivious HTTP (RFC 9458 section 3): a public key, its identifier and its algorithms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.channel.kem import KEMS, Kem, usable
from privml.channel.suites import AEADS, HKDF_SHA256, Aead
from privml.channel.varint import Cursor

MEDIA_TYPE = "application/ohttp-keys"
MAX_CONFIGS = 16
MAX_SUITES = 16


@dataclass(frozen=True)
class KeyConfig:
    """One public key. ``suites`` are pairs of KDF and AEAD; unknown ones are carried and never chosen."""

    key_id: int
    kem: Kem
    public: bytes
    suites: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if len(self.public) != self.kem.public_size:
            raise EvidenceError(
                f"key config: {len(self.public)} bytes of {self.kem.name} key, expected {self.kem.public_size}"
            )
        if not 1 <= len(self.suites) <= MAX_SUITES or len(set(self.suites)) != len(self.suites):
            raise EvidenceError(f"key config: {len(self.suites)} suites, expected 1 to {MAX_SUITES}, each once")

    def encode(self) -> bytes:
        """The configuration's bytes."""
        suites = b"".join(number.to_bytes(2, "big") for pair in self.suites for number in pair)
        key = self.key_id.to_bytes(1, "big") + self.kem.id.to_bytes(2, "big") + self.public
        return key + len(suites).to_bytes(2, "big") + suites

    @classmethod
    def decode(cls, data: bytes) -> KeyConfig:
        """Read exactly one configuration; ``EvidenceError`` for an unknown KEM."""
        cursor = Cursor(data, "key config")
        key_id, kem_id = cursor.number(1), cursor.number(2)
        if (kem := KEMS.get(kem_id)) is None:
            expected = " or ".join(f"{known:#06x}" for known in KEMS)
            raise EvidenceError(f"key config: KEM {kem_id:#06x}, expected {expected}")
        public, size = cursor.take(kem.public_size), cursor.number(2)
        if size % 4 or not 4 <= size <= 4 * MAX_SUITES:
            raise EvidenceError(f"key config: {size} bytes of suites, expected 4 for each of 1 to {MAX_SUITES}")
        suites = tuple((cursor.number(2), cursor.number(2)) for _ in range(size // 4))
        cursor.end()
        return cls(key_id, kem, public, suites)

    @classmethod
    def of(cls, key_id: int, kem: Kem, public: bytes) -> KeyConfig:
        """The configuration that a guest offers for a key."""
        return cls(key_id, kem, public, tuple((HKDF_SHA256, aead) for aead in kem.aeads))

    def offers(self, kdf: int, aead: int) -> Aead | None:
        """The AEAD if the key is used with this pair, else None."""
        return AEADS.get(aead) if kdf == HKDF_SHA256 and (kdf, aead) in self.suites else None

    def preferred(self) -> Aead | None:
        """The first AEAD that is known here, None if there is none."""
        return next((found for pair in self.suites if (found := self.offers(*pair))), None)


def encode_list(configs: Iterable[KeyConfig]) -> bytes:
    """Configurations as ``application/ohttp-keys``."""
    parts = [one.encode() for one in configs]
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def decode_list(data: bytes) -> tuple[KeyConfig, ...]:
    """Read ``application/ohttp-keys``: 1 to `MAX_CONFIGS` configurations with different identifiers."""
    cursor = Cursor(data, "key configs")
    found: list[KeyConfig] = []
    while cursor.left and len(found) < MAX_CONFIGS:
        found.append(KeyConfig.decode(cursor.take(cursor.number(2))))
    cursor.end()
    return distinct(found)


def distinct(configs: Iterable[KeyConfig]) -> tuple[KeyConfig, ...]:
    """The configurations; ``EvidenceError`` unless there are 1 to `MAX_CONFIGS` with different identifiers."""
    found = tuple(configs)
    if not 1 <= len(found) <= MAX_CONFIGS or len({one.key_id for one in found}) != len(found):
        raise EvidenceError(f"key configs: {len(found)}, expected 1 to {MAX_CONFIGS} with different identifiers")
    return found


def choose(configs: Iterable[KeyConfig]) -> tuple[KeyConfig, Aead]:
    """The configuration to seal for, and its AEAD; ``EvidenceError`` if this machine can use none.

    It is the first that is post-quantum, whatever the order, else the first.
    """
    for config in sorted(configs, key=lambda one: not one.kem.post_quantum):
        if config.kem in usable() and (aead := config.preferred()) is not None:
            return config, aead
    raise EvidenceError("key configs: none with algorithms that are known here")
