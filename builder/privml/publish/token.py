"""Private keys in a hardware token, by a PKCS #11 URI (RFC 7512).

``pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/.../module.so``, with ``&pin-source=file:PATH`` where nobody
can be asked for the PIN. A PIN in the URI is refused: any user of the machine can read it in a command line. Keys are
ECDSA over P-256 or P-384, or Ed25519. The Python package comes with the extra ``privml-build[hsm]``.
"""

from __future__ import annotations

import hashlib
import importlib
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from privml.base import extras
from privml.base.errors import EvidenceError, HostError, UsageError
from privml.base.files import read_start
from privml.statement.keys import ED25519_PREFIX, PublicKey

SCHEME = "pkcs11"
_PATH = ("token", "object")
_QUERY = ("module-path", "pin-source")
_SHAPE = "pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/.../module.so"
_MAX_PIN = 256
Made = TypeVar("Made")
_HASHES = {"ecdsa-p256": hashlib.sha256, "ecdsa-p384": hashlib.sha384}


@dataclass(frozen=True)
class TokenUri:
    """The parts of a URI: labels of token and key, the PKCS #11 module, and the file of the PIN or None."""

    token: str
    key: str
    module: str
    pin_source: Path | None

    @classmethod
    def parse(cls, uri: str) -> TokenUri:
        """Read a URI; ``UsageError`` for one with a PIN, with an unknown part or without a needed one."""
        path, _, query = uri.partition(":")[2].partition("?")
        found: dict[str, str] = {}
        for text, separator, known in ((path, ";", _PATH), (query, "&", _QUERY)):
            for part in filter(None, text.split(separator)):
                name, _, value = part.partition("=")
                if name == "pin-value":
                    raise UsageError(
                        "--key: a PIN in the address can be read by every user of this machine",
                        hint="leave it out to be asked, or name a file with pin-source=file:PATH",
                    )
                if name not in known or name in found:
                    raise UsageError(f"--key: `{name[:40]}` is not expected there once, expected {_SHAPE}")
                found[name] = urllib.parse.unquote(value)
        if missing := [name for name in (*_PATH, "module-path") if not found.get(name)]:
            raise UsageError(f"--key: `{missing[0]}` is missing, expected {_SHAPE}")
        source = found.get("pin-source")
        if source is not None and not source.removeprefix("file:").startswith("/"):
            raise UsageError(f"--key: pin-source got `{source[:80]}`, expected file:/PATH")
        pin = None if source is None else Path(source.removeprefix("file:"))
        return cls(found["token"], found["object"], found["module-path"], pin)


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
    wanted = TokenUri.parse(uri)
    try:
        pkcs11 = importlib.import_module("pkcs11")
    except ModuleNotFoundError as error:
        raise extras.missing(error) or error from error
    opened = _Opened(pkcs11, wanted, _pin(wanted, ask))
    return TokenSigner(opened.use(opened.public), lambda data: opened.use(opened.signature, data))


def _pin(wanted: TokenUri, ask: Callable[[str], str] | None) -> str:
    if wanted.pin_source is not None:
        try:
            data = read_start(wanted.pin_source, _MAX_PIN)
        except OSError as error:
            raise HostError(f"{wanted.pin_source} cannot be read: {error.strerror or error}") from error
        return data.decode("utf-8", "replace").rstrip("\r\n")
    if ask is None:
        raise HostError(f"token `{wanted.token}` has a PIN, and there is nobody to ask for it")
    return ask(f"PIN of token {wanted.token}")


class _Opened:
    """A token with its PIN. Each use has a session of its own, because a login is the whole program's."""

    def __init__(self, pkcs11: Any, wanted: TokenUri, pin: str) -> None:
        self._pkcs11 = pkcs11
        self._wanted = wanted
        self._pin = pin

    def use(self, work: Callable[..., Made], *words: object) -> Made:
        """What ``work`` makes in a session; ``HostError`` if the token does not let it."""
        wanted = self._wanted
        try:
            token = self._pkcs11.lib(wanted.module).get_token(token_label=wanted.token)
            with token.open(user_pin=self._pin) as session:
                return work(session, *words)
        except self._pkcs11.exceptions.PKCS11Error as error:
            said = str(error) or type(error).__name__
            raise HostError(
                f"token `{wanted.token}`, key `{wanted.key}` cannot be used: {said}",
                hint="check that the token is plugged in, its labels, and the PIN",
            ) from error
        except (OSError, RuntimeError) as error:
            raise HostError(f"{wanted.module} cannot be loaded: {error}") from error

    def public(self, session: Any) -> PublicKey:
        """The public key. An Ed25519 point is 32 bytes in an OCTET STRING (PKCS #11 3.0)."""
        key = session.get_key(object_class=self._pkcs11.constants.ObjectClass.PUBLIC_KEY, label=self._wanted.key)
        point = bytes(key[self._pkcs11.Attribute.EC_POINT])
        try:
            if self._edwards(key) and point[:2] == b"\x04\x20" and len(point) == 34:
                return PublicKey(ED25519_PREFIX + point[2:])
            return PublicKey(bytes(importlib.import_module("pkcs11.util.ec").encode_ec_public_key(key)))
        except EvidenceError as error:
            raise UsageError(f"the key in the token: {error.message}") from error

    def signature(self, session: Any, data: bytes) -> bytes:
        """The private key's signature, in the encoding of `statement.keys`."""
        key = session.get_key(object_class=self._pkcs11.constants.ObjectClass.PRIVATE_KEY, label=self._wanted.key)
        mechanisms = self._pkcs11.Mechanism
        if self._edwards(key):
            return bytes(key.sign(data, mechanism=mechanisms.EDDSA))
        digest = _HASHES[self.public(session).algorithm](data).digest()
        made = key.sign(digest, mechanism=mechanisms.ECDSA)
        return bytes(importlib.import_module("pkcs11.util.ec").encode_ecdsa_signature(made))

    def _edwards(self, key: Any) -> bool:
        return bool(key.key_type == self._pkcs11.KeyType.EC_EDWARDS)
