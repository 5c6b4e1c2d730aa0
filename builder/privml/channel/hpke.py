"""The HPKE context (RFC 9180), base mode only: seal or open in sequence, and export secrets.

`cryptography` seals single messages without sequence, associated data or export, so the key schedule is here, over
its primitives. The later standard drops the modes with a pre-shared or a sender's key, and they are not here either.
The context of a sender seals, that of a recipient opens; both export the same secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from privml.channel.kem import Kem, PrivateKey
from privml.channel.suites import HASH_SIZE, HKDF_SHA256, NONCE_SIZE, Aead, Sequence, expand, extract

MAX_INFO = 65535
_BASE_MODE = b"\x00"


@dataclass(frozen=True)
class Schedule:
    """What the key schedule of the base mode derives from a shared secret."""

    suite: bytes
    key: bytes
    nonce: bytes
    exporter: bytes

    def export(self, context: bytes, size: int) -> bytes:
        """A secret that both sides have, for one use named by ``context``."""
        return _expand(self.suite, self.exporter, b"sec", context, size)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + material)


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return expand(key, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, size)


@lru_cache(maxsize=64)
def _public_context(suite: bytes, info: bytes) -> bytes:
    """What the key schedule uses besides the shared secret. It is public, and the same for every message to a key."""
    return _BASE_MODE + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)


def schedule(kem: Kem, aead: Aead, shared: bytes, info: bytes) -> Schedule:
    """RFC 9180's KeySchedule with empty pre-shared key."""
    if len(info) > MAX_INFO:
        raise ValueError(f"info: {len(info)} bytes, expected at most {MAX_INFO}")
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (kem.id, HKDF_SHA256, aead.id))
    context = _public_context(suite, info)
    secret = _extract(suite, shared, b"secret", b"")
    return Schedule(
        suite,
        key=_expand(suite, secret, b"key", context, aead.key_size),
        nonce=_expand(suite, secret, b"base_nonce", context, NONCE_SIZE),
        exporter=_expand(suite, secret, b"exp", context, HASH_SIZE),
    )


class _Context:
    def __init__(self, aead: Aead, found: Schedule, encapsulated: bytes) -> None:
        self._schedule = found
        self._messages = Sequence(aead, found.key, found.nonce)
        self.encapsulated = encapsulated
        self.aead = aead

    def export(self, context: bytes, size: int) -> bytes:
        """A secret that both sides have, for one use named by ``context``."""
        return self._schedule.export(context, size)


class Sender(_Context):
    """The side that seals. ``encapsulated`` goes to the recipient."""

    def __init__(self, kem: Kem, aead: Aead, public: bytes, info: bytes) -> None:
        """Encapsulate to ``public``; ``ValueError`` if it is not a usable key."""
        if len(public) != kem.public_size:
            raise ValueError(f"{kem.name}: {len(public)} bytes of public key, expected {kem.public_size}")
        shared, encapsulated = kem.encapsulate(public)
        super().__init__(aead, schedule(kem, aead, shared, info), encapsulated)

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """Seal the next message."""
        return self._messages.seal(plain, associated)


class Recipient(_Context):
    """The side that opens."""

    def __init__(self, key: PrivateKey, aead: Aead, encapsulated: bytes, info: bytes) -> None:
        """Decapsulate; ``CannotOpen`` if ``encapsulated`` is malformed."""
        super().__init__(aead, schedule(key.kem, aead, key.decapsulate(encapsulated), info), encapsulated)

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """Open the next message, or raise ``CannotOpen``."""
        return self._messages.open(sealed, associated)
