"""Private keys in a hardware token, by a PKCS #11 URI (`base.token`).

Keys are ECDSA over P-256 or P-384, or Ed25519.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, HostError, UsageError
from privml.base.token import Token, TokenUri
from privml.statement.keys import ED25519_PREFIX, PublicKey

_HASHES = {"ecdsa-p256": hashlib.sha256, "ecdsa-p384": hashlib.sha384}


@dataclass(frozen=True)
class TokenSigner:
    """A private key that never leaves its token."""

    public: PublicKey
    _sign: Callable[[bytes], bytes]

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``; ``HostError`` if the token does not give one of this key."""
        made = self._sign(data)
        if not self.public.verifies(made, data):
            raise HostError(f"the token's signature is not that of its public key {self.public.keyid}")
        return made


def load(uri: str, ask: Callable[[str], str] | None = None) -> TokenSigner:
    """The key that ``uri`` names. ``UsageError`` for a bad URI, ``HostError`` if the token cannot be used."""
    opened = _Opened(Token(TokenUri.parse(uri), ask))
    return TokenSigner(opened.token.use(opened.public), lambda data: opened.token.use(opened.signature, data))


class _Opened:
    """A key in a token."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self._pkcs11 = token.pkcs11
        self._label = token.wanted.key

    def public(self, session: Any) -> PublicKey:
        """The public key. An Ed25519 point is 32 bytes in an OCTET STRING (PKCS #11 3.0)."""
        key = session.get_key(object_class=self._pkcs11.constants.ObjectClass.PUBLIC_KEY, label=self._label)
        point = bytes(key[self._pkcs11.Attribute.EC_POINT])
        try:
            if self._edwards(key) and point[:2] == b"\x04\x20" and len(point) == 34:
                return PublicKey(ED25519_PREFIX + point[2:])
            return PublicKey(bytes(importlib.import_module("pkcs11.util.ec").encode_ec_public_key(key)))
        except EvidenceError as error:
            raise UsageError(f"the key in the token: {error.message}") from error

    def signature(self, session: Any, data: bytes) -> bytes:
        """The private key's signature, in the encoding of `statement.keys`."""
        key = session.get_key(object_class=self._pkcs11.constants.ObjectClass.PRIVATE_KEY, label=self._label)
        mechanisms = self._pkcs11.Mechanism
        if self._edwards(key):
            return bytes(key.sign(data, mechanism=mechanisms.EDDSA))
        digest = _HASHES[self.public(session).algorithm](data).digest()
        made = key.sign(digest, mechanism=mechanisms.ECDSA)
        return bytes(importlib.import_module("pkcs11.util.ec").encode_ecdsa_signature(made))

    def _edwards(self, key: Any) -> bool:
        return bool(key.key_type == self._pkcs11.KeyType.EC_EDWARDS)
