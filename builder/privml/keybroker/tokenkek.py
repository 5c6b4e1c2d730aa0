"""A key in a hardware token that wraps a store's root: AES-256 by PKCS #11, which never leaves the token.

The mechanism is CKM_AES_GCM. A token that lacks it is refused before anything is wrapped: key wrapping by RSA-OAEP
with SHA-1, which many tokens offer instead, is not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import HostError
from privml.base.token import Token, TokenUri
from privml.keybroker.kek import KEY_SIZE, NONCE_SIZE, PKCS11, TAG_SIZE, Ask, wrong

_PROBE = b"a probe of this length, 32 bytes"


@dataclass(frozen=True)
class TokenKek:
    """An AES key in a token."""

    token: Token

    @property
    def parameters(self) -> Mapping[str, object]:
        """The kind, and the key's label. Where the token is, each command says."""
        return {"kind": PKCS11, "object": self.token.wanted.key}

    def wrap(self, plain: bytes, associated: bytes) -> bytes:
        """``plain`` encrypted, together with ``associated``; ``HostError`` if the token cannot."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self.token.use(self._run, "encrypt", nonce, plain, associated)

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """What was wrapped; ``Refused`` if it was by another key, or for other ``associated`` data."""
        if len(wrapped) < NONCE_SIZE + TAG_SIZE:
            raise wrong("the key in the token")
        errors = self.token.pkcs11.exceptions
        refused = (
            errors.EncryptedDataInvalid,
            errors.EncryptedDataLenRange,
            errors.GeneralError,
            errors.FunctionFailed,
        )

        def run(session: Any) -> bytes:
            try:
                return self._run(session, "decrypt", wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], associated)
            except refused:
                raise wrong("the key in the token") from None

        return self.token.use(run)

    def _run(self, session: Any, name: str, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        pkcs11 = self.token.pkcs11
        key = session.get_key(
            object_class=pkcs11.constants.ObjectClass.SECRET_KEY,
            key_type=pkcs11.KeyType.AES,
            label=self.token.wanted.key,
        )
        if key[pkcs11.Attribute.VALUE_LEN] != KEY_SIZE:
            raise HostError(f"the key in the token has {8 * key[pkcs11.Attribute.VALUE_LEN]} bits, expected 256")
        parameters = pkcs11.GCMParams(nonce, associated, TAG_SIZE * 8)
        return bytes(getattr(key, name)(data, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters))


def load(uri: str, ask: Ask | None = None) -> TokenKek:
    """The AES key that ``uri`` names; ``HostError`` if the token cannot be used, or cannot encrypt with AES-GCM."""
    found = TokenKek(Token(TokenUri.parse(uri, "--kek"), ask))
    if found.unwrap(found.wrap(_PROBE, b"probe"), b"probe") != _PROBE:
        raise HostError("the token does not decrypt what it encrypted")
    return found
