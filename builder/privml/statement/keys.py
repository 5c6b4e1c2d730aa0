"""Public keys of signers, and how many of a role's keys signed some bytes.

A key is known by its SPKI alone: its id is the SHA-256 of the DER, computed and never taken from a file, so one key
cannot count twice under two names. Signatures are Ed25519, or ECDSA over P-256 (SHA-256) or P-384 (SHA-384) in DER.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from privml.base.errors import EvidenceError
from privml.base.strictjson import first_repeated

MAX_SPKI = 1024
MAX_KEYS = 64
ED25519 = "ed25519"
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What precedes the 32 bytes of an Ed25519 key in its SPKI."""
ECDSA: Mapping[str, tuple[type[ec.EllipticCurve], type[HashAlgorithm]]] = {
    "ecdsa-p256": (ec.SECP256R1, SHA256),
    "ecdsa-p384": (ec.SECP384R1, SHA384),
}
"""The curve and hash of each ECDSA algorithm."""
ALGORITHMS = (ED25519, *ECDSA)
_Key = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class PublicKey:
    """A public key as DER SubjectPublicKeyInfo; ``EvidenceError`` for a kind or encoding that is not accepted."""

    spki: bytes

    def __post_init__(self) -> None:
        self._loaded  # noqa: B018 - reads the key, so that no malformed one exists

    @cached_property
    def _loaded(self) -> tuple[str, _Key]:
        if len(self.spki) > MAX_SPKI:
            raise EvidenceError(f"public key: {len(self.spki)} bytes, expected at most {MAX_SPKI}")
        try:
            key = load_der_public_key(self.spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise EvidenceError("public key: not a DER SubjectPublicKeyInfo of a known kind") from error
        # A second encoding of the same key (a compressed point, other parameters) would have a second id.
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != self.spki:
            raise EvidenceError("public key: not the canonical encoding of its key")
        if isinstance(key, ed25519.Ed25519PublicKey):
            return ED25519, key
        if isinstance(key, ec.EllipticCurvePublicKey):
            for name, (curve, _) in ECDSA.items():
                if isinstance(key.curve, curve):
                    return name, key
        raise EvidenceError(f"public key: its kind is not one of {', '.join(ALGORITHMS)}")

    @property
    def algorithm(self) -> str:
        """One of `ALGORITHMS`."""
        return self._loaded[0]

    @cached_property
    def keyid(self) -> str:
        """Hex SHA-256 of the SPKI."""
        return hashlib.sha256(self.spki).hexdigest()

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """True if ``signature`` is this key's over ``data``."""
        _, key = self._loaded
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, data)
            else:
                key.verify(signature, data, ec.ECDSA(ECDSA[self.algorithm][1]()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Role:
    """Keys of which ``threshold`` different ones must sign. Their order has no meaning, and is that of their ids."""

    keys: tuple[PublicKey, ...]
    threshold: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(sorted(self.keys, key=lambda key: key.keyid)))
        if twice := first_repeated(key.keyid for key in self.keys):
            raise EvidenceError(f"role: key {twice} is listed twice, expected different keys")
        if not 1 <= self.threshold <= len(self.keys) <= MAX_KEYS:
            raise EvidenceError(
                f"role: threshold {self.threshold} of {len(self.keys)} keys, expected 1 to the number of keys, "
                f"and at most {MAX_KEYS} keys"
            )

    @cached_property
    def by_id(self) -> Mapping[str, PublicKey]:
        """The keys by their ids."""
        return {key.keyid: key for key in self.keys}

    def signed_by(self, signatures: Iterable[tuple[str, bytes]], data: bytes) -> tuple[str, ...]:
        """The ids of this role's keys that signed ``data``, each once, in the order of the signatures.

        ``signatures`` are pairs of key id and signature. Those of other keys are ignored. ``EvidenceError`` if one
        key is named twice, or a signature in the name of one of the role's keys is not that key's.
        """
        pairs = list(signatures)
        if twice := first_repeated(keyid for keyid, _ in pairs):
            raise EvidenceError(f"signatures: key {twice} signs twice, expected each key once")
        found = []
        for keyid, signature in pairs:
            key = self.by_id.get(keyid)
            if key is None:
                continue
            if not key.verifies(signature, data):
                raise EvidenceError(f"signatures: that of key {keyid} does not verify")
            found.append(keyid)
        return tuple(found)
