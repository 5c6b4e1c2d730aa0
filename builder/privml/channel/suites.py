"""The symmetric algorithms of the channel: HKDF-SHA256 and three AEADs, each one record.

`CannotOpen` is the only error for everything sealed. An answer that distinguishes a wrong key from a wrong tag, or a
wrong length from a missing end, helps an attacker who tries many of them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from privml.base.errors import EvidenceError

HKDF_SHA256 = 0x0001
"""The identifier of the only KDF."""
HASH_SIZE = 32
TAG_SIZE = 16
NONCE_SIZE = 12
MAX_MESSAGES = 2**32
"""How many messages one key seals or opens at most; far below what any of the AEADs allows."""


class CannotOpen(EvidenceError):
    """A sealed message was not opened. There is one message for every cause."""

    def __init__(self) -> None:
        super().__init__("sealed message: could not be opened")


def extract(salt: bytes, material: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869)."""
    return hmac.digest(salt or bytes(HASH_SIZE), material, hashlib.sha256)


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-256; ``ValueError`` for more than 255 blocks."""
    if not 0 <= size <= 255 * HASH_SIZE:
        raise ValueError(f"{size} bytes, expected 0 to {255 * HASH_SIZE}")
    block, output, count = b"", b"", 1
    while len(output) < size:
        block = hmac.digest(key, block + info + bytes([count]), hashlib.sha256)
        output += block
        count += 1
    return output[:size]


class Cipher(Protocol):
    """What the AEAD classes of `cryptography` have in common."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Seal ``data``."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Open ``data``; ``InvalidTag`` if it was not sealed so."""


@dataclass(frozen=True)
class Aead:
    """One AEAD: its identifier, and the size of its key."""

    id: int
    name: str
    key_size: int
    make: Callable[[bytes], Cipher]

    @property
    def secret_size(self) -> int:
        """The size of response nonces and exported secrets in oblivious HTTP: the larger of key and nonce."""
        return max(self.key_size, NONCE_SIZE)


AEADS: dict[int, Aead] = {
    one.id: one
    for one in (
        Aead(0x0001, "AES-128-GCM", 16, AESGCM),
        Aead(0x0002, "AES-256-GCM", 32, AESGCM),
        Aead(0x0003, "ChaCha20-Poly1305", 32, ChaCha20Poly1305),
    )
}
"""The AEADs by identifier."""


class Sequence:
    """A key that seals or opens messages in order, each with its own nonce; for one direction only.

    After the first message that cannot be opened, none can.
    """

    def __init__(self, aead: Aead, key: bytes, nonce: bytes) -> None:
        if len(key) != aead.key_size or len(nonce) != NONCE_SIZE:
            raise ValueError(f"{aead.name}: key {len(key)} bytes, nonce {len(nonce)} bytes")
        self._cipher = aead.make(key)
        self._nonce = int.from_bytes(nonce, "big")
        self._count = 0

    def _next(self) -> bytes:
        if self._count >= MAX_MESSAGES:
            raise ValueError(f"{MAX_MESSAGES} messages were sealed with this key, expected no more")
        nonce = self._nonce ^ self._count
        self._count += 1
        return nonce.to_bytes(NONCE_SIZE, "big")

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """Seal the next message."""
        return self._cipher.encrypt(self._next(), plain, associated)

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """Open the next message, or raise ``CannotOpen``."""
        if self._count >= MAX_MESSAGES:
            raise CannotOpen
        try:
            return self._cipher.decrypt(self._next(), sealed, associated)
        except (InvalidTag, ValueError):
            self._count = MAX_MESSAGES
            raise CannotOpen from None
