"""The two KEMs of the channel: DHKEM(X25519, HKDF-SHA256) of RFC 9180, and X-Wing.

X-Wing (draft-connolly-cfrg-xwing-kem; identifier 0x647a of draft-ietf-hpke-pq) is ML-KEM-768 and X25519 together: a
message stays closed as long as one of the two is unbroken. It needs ML-KEM (`channel.mlkem`); `usable` has it only
where that is available.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privml.channel import mlkem
from privml.channel.suites import CannotOpen, expand, extract

SECRET_SIZE = 32
"""Of shared secrets, and of private keys of both KEMs."""
_X25519_SIZE = 32
_XWING_LABEL = b"\\.//^\\"


class PrivateKey(Protocol):
    """A private key of one KEM."""

    @property
    def kem(self) -> Kem:
        """The key's KEM."""

    @property
    def public(self) -> bytes:
        """The encoded public key."""

    def decapsulate(self, encapsulated: bytes) -> bytes:
        """The shared secret in ``encapsulated``; ``CannotOpen`` if it is malformed."""


@dataclass(frozen=True)
class Kem:
    """One KEM: its identifier, sizes in bytes, and what makes keys and encapsulates."""

    id: int
    name: str
    public_size: int
    encapsulated_size: int
    post_quantum: bool
    aeads: tuple[int, ...]
    """Identifiers of the AEADs that a guest offers with it. AES-128 would be the weakest part of X-Wing."""
    private: Callable[[bytes], PrivateKey]
    encapsulate: Callable[[bytes], tuple[bytes, bytes]]
    """For a public key: a fresh shared secret and its encapsulation; ``ValueError`` if the key is unusable."""

    def generate(self) -> PrivateKey:
        """A new private key."""
        return self.private(os.urandom(SECRET_SIZE))


def _labeled(kem_id: int, encapsulated: bytes, public: bytes, shared: bytes) -> bytes:
    """DHKEM's ExtractAndExpand (RFC 9180 section 4.1)."""
    suite = b"HPKE-v1" + b"KEM" + kem_id.to_bytes(2, "big")
    key = extract(b"", suite + b"eae_prk" + shared)
    info = SECRET_SIZE.to_bytes(2, "big") + suite + b"shared_secret" + encapsulated + public
    return expand(key, info, SECRET_SIZE)


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    """X25519; ``ValueError`` for a point of small order, whose result would be zero."""
    return private.exchange(X25519PublicKey.from_public_bytes(public))


class _X25519Key:
    """A private key of DHKEM(X25519)."""

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def kem(self) -> Kem:
        return X25519

    def decapsulate(self, encapsulated: bytes) -> bytes:
        if len(encapsulated) != X25519.encapsulated_size:
            raise CannotOpen
        try:
            shared = _exchange(self._key, encapsulated)
        except ValueError:
            raise CannotOpen from None
        return _labeled(X25519.id, encapsulated, self.public, shared)


def _encapsulate_x25519(public: bytes) -> tuple[bytes, bytes]:
    return encapsulate_x25519_with(X25519PrivateKey.generate(), public)


def encapsulate_x25519_with(ephemeral: X25519PrivateKey, public: bytes) -> tuple[bytes, bytes]:
    """DHKEM's Encap with a given ephemeral key. Only vectors may give one; any other use breaks the channel."""
    encapsulated = ephemeral.public_key().public_bytes_raw()
    return _labeled(X25519.id, encapsulated, public, _exchange(ephemeral, public)), encapsulated


def _implementation() -> mlkem.Provider:
    found = mlkem.provider()
    if found is None:
        raise ValueError("X-Wing: this machine has no ML-KEM-768")
    return found


def _combine(first: bytes, second: bytes, encapsulated: bytes, public: bytes) -> bytes:
    """X-Wing's combiner: the X25519 parts are hashed, ML-KEM's ciphertext need not be."""
    return hashlib.sha3_256(first + second + encapsulated + public + _XWING_LABEL).digest()


class XWingKey:
    """A private key of X-Wing: a seed of 32 bytes."""

    def __init__(self, seed: bytes, provider: mlkem.Provider | None = None) -> None:
        if len(seed) != SECRET_SIZE:
            raise ValueError(f"X-Wing: {len(seed)} bytes of seed, expected {SECRET_SIZE}")
        expanded = hashlib.shake_256(seed).digest(mlkem.SEED_SIZE + _X25519_SIZE)
        self._first = (provider or _implementation()).private(expanded[: mlkem.SEED_SIZE])
        self._second = X25519PrivateKey.from_private_bytes(expanded[mlkem.SEED_SIZE :])
        self._second_public = self._second.public_key().public_bytes_raw()
        self.public = self._first.public() + self._second_public

    @property
    def kem(self) -> Kem:
        return X_WING

    def decapsulate(self, encapsulated: bytes) -> bytes:
        if len(encapsulated) != X_WING.encapsulated_size:
            raise CannotOpen
        for_first, for_second = encapsulated[: mlkem.CIPHERTEXT_SIZE], encapsulated[mlkem.CIPHERTEXT_SIZE :]
        try:
            first, second = self._first.decapsulate(for_first), _exchange(self._second, for_second)
        except ValueError:
            raise CannotOpen from None
        return _combine(first, second, for_second, self._second_public)


def encapsulate_xwing(public: bytes, provider: mlkem.Provider | None = None) -> tuple[bytes, bytes]:
    """A fresh shared secret for an X-Wing public key, and its encapsulation; ``ValueError`` for an unusable key."""
    if len(public) != X_WING.public_size:
        raise ValueError(f"X-Wing: {len(public)} bytes of public key, expected {X_WING.public_size}")
    ephemeral = X25519PrivateKey.generate()
    for_second = ephemeral.public_key().public_bytes_raw()
    first, for_first = (provider or _implementation()).encapsulate(public[: mlkem.PUBLIC_SIZE])
    second = _exchange(ephemeral, public[mlkem.PUBLIC_SIZE :])
    return _combine(first, second, for_second, public[mlkem.PUBLIC_SIZE :]), for_first + for_second


X25519 = Kem(
    id=0x0020,
    name="x25519",
    public_size=_X25519_SIZE,
    encapsulated_size=_X25519_SIZE,
    post_quantum=False,
    aeads=(0x0001, 0x0002, 0x0003),
    private=_X25519Key,
    encapsulate=_encapsulate_x25519,
)
X_WING = Kem(
    id=0x647A,
    name="x-wing",
    public_size=mlkem.PUBLIC_SIZE + _X25519_SIZE,
    encapsulated_size=mlkem.CIPHERTEXT_SIZE + _X25519_SIZE,
    post_quantum=True,
    aeads=(0x0002, 0x0003),
    private=XWingKey,
    encapsulate=encapsulate_xwing,
)
KEMS: dict[int, Kem] = {one.id: one for one in (X_WING, X25519)}
"""The KEMs by identifier, in the order of preference. Sizes are known also where X-Wing cannot be used."""


def usable() -> tuple[Kem, ...]:
    """The KEMs that this machine has, in the order of preference."""
    return tuple(kem for kem in KEMS.values() if not kem.post_quantum or mlkem.provider() is not None)
