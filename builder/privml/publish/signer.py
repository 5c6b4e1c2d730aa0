"""Private keys that sign, by URI. Those in a hardware token, ``pkcs11:...``, are in `publish.token`.

``PATH`` or ``file:PATH``: a file in PEM (PKCS #8, Ed25519 or ECDSA over P-256 or P-384) or in OpenSSH's format
(Ed25519). A passphrase is asked for where the caller can ask; it is never taken from arguments or the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from privml.base.errors import EvidenceError, HostError, UsageError
from privml.base.files import read_start
from privml.base.token import SCHEME
from privml.publish import token
from privml.statement.keys import ALGORITHMS, ECDSA, PublicKey

MAX_KEY_FILE = 64 * 1024
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Ask = Callable[[str], str]
"""Asks a person for a passphrase; the argument says which."""


class Signer(Protocol):
    """A private key."""

    @property
    def public(self) -> PublicKey:
        """Its public part."""

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``; ``HostError`` if the key cannot be used now."""


@dataclass(frozen=True)
class KeySigner:
    """A private key in memory."""

    public: PublicKey
    _key: _PrivateKey

    @classmethod
    def of(cls, key: _PrivateKey) -> KeySigner:
        """The signer of a loaded key; ``EvidenceError`` for a kind that is not accepted."""
        return cls(public_of(key.public_key()), key)

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, ec.ECDSA(ECDSA[self.public.algorithm][1]()))


def public_of(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> PublicKey:
    """The record of a loaded public key."""
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def load(uri: str, ask: Ask | None = None) -> Signer:
    """The private key that ``uri`` names; ``UsageError`` if it names none, ``HostError`` if it cannot be used now."""
    scheme, colon, rest = uri.partition(":")
    if scheme == SCHEME and colon:
        return token.load(uri, ask)
    if colon and scheme != "file" and not Path(uri).exists():
        raise UsageError(f"--key {uri}: there is no kind of key `{scheme}`", hint="give a file, or pkcs11:...")
    path = Path(rest if scheme == "file" and colon else uri)
    data = _bytes(path)
    try:
        key = _private(data, None)
    except TypeError:
        # The libraries' word for "it is encrypted".
        if ask is None:
            raise HostError(f"{path} has a passphrase, and there is nobody to ask for it") from None
        try:
            key = _private(data, ask(f"Passphrase of {path}").encode())
        except UnsupportedAlgorithm as error:
            raise HostError(
                f"{path}: {error}",
                hint="OpenSSH's encryption needs the Python package `bcrypt`; PEM keys with a passphrase do not",
            ) from error
        except ValueError as error:
            raise HostError(f"{path}: the passphrase does not open it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a private key in PEM or OpenSSH's format", hint=_KINDS) from error
    if not isinstance(key, _PrivateKey):
        raise UsageError(f"{path}: a key of another kind, expected one of {', '.join(ALGORITHMS)}", hint=_KINDS)
    try:
        return KeySigner.of(key)
    except EvidenceError as error:
        raise UsageError(f"{path}: {error.message}", hint=_KINDS) from error


def load_public(path: Path) -> PublicKey:
    """The public key in a file, PEM or OpenSSH's one line; ``UsageError`` if it has none of an accepted kind."""
    data = _bytes(path)
    try:
        key = load_pem_public_key(data) if data.startswith(b"-----") else load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a public key in PEM or OpenSSH's format", hint=_KINDS) from error
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise UsageError(f"{path}: a key of another kind, expected one of {', '.join(ALGORITHMS)}", hint=_KINDS)
    try:
        return public_of(key)
    except EvidenceError as error:
        raise UsageError(f"{path}: {error.message}", hint=_KINDS) from error


_KINDS = (
    "`openssl genpkey -algorithm ed25519 -out KEY.pem` makes a private key, `openssl pkey -pubout` its public part"
)


def _private(data: bytes, passphrase: bytes | None) -> object:
    if data.lstrip().startswith(_OPENSSH):
        return load_ssh_private_key(data, passphrase)
    return load_pem_private_key(data, passphrase)


def _bytes(path: Path) -> bytes:
    try:
        data = read_start(path, MAX_KEY_FILE)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_KEY_FILE:
        raise UsageError(f"{path} is larger than {MAX_KEY_FILE} bytes: not a key")
    return data
