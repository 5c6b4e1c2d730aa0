"""Keys that wrap a store's root: in a file, from a passphrase, or in a hardware token (`keybroker.tokenkek`).

Each kind is one record in `KINDS`, named by the beginning of its URI. A store keeps the parameters of its kind, never
a secret of it, and wraps with AES-256-GCM.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privml.base.errors import HostError, Refused, UsageError
from privml.base.files import fsync_directory, read_start
from privml.base.strictjson import Fields

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
SALT_SIZE = 32
SCRYPT_N = 2**17
"""Cost of scrypt: 128 MiB and about half a second."""
MIN_PASSPHRASE = 12
_MAX_PASSPHRASE = 1024
_OTHERS = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
"""Not the group's read bit: in a credential of systemd it is the mask of an access list with the one user."""
FILE = "file"
PASSPHRASE = "passphrase"  # noqa: S105 - the name of a kind
PKCS11 = "pkcs11"
_PROMPT = "Passphrase"
SHAPES = "file:PATH, passphrase, passphrase:PATH or pkcs11:..."

Ask = Callable[[str], str]
"""Asks a person for a secret; the argument says which."""


class Kek(Protocol):
    """A key that wraps others."""

    @property
    def parameters(self) -> Mapping[str, object]:
        """What is kept next to the wrapped keys to use this key again: ``kind``, and what else its kind needs."""

    def wrap(self, plain: bytes, associated: bytes) -> bytes:
        """``plain`` encrypted, together with ``associated``."""

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """What was wrapped; ``Refused`` if it was by another key, or for other ``associated`` data."""


def seal(key: bytes, plain: bytes, associated: bytes) -> bytes:
    """AES-256-GCM under a random nonce: nonce || ciphertext || tag."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, plain, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The opposite of `seal`; ``InvalidTag`` if it does not open."""
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        raise InvalidTag
    return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], associated)


def wrong(what: str) -> Refused:
    """The refusal of a key that does not open a store."""
    return Refused(
        f"kek-wrong: {what} does not open this store",
        hint="--kek must name the key that the store was made with, or was last rotated to",
    )


@dataclass(frozen=True)
class SoftwareKek:
    """A key in memory. ``source`` names it in messages."""

    parameters: Mapping[str, object]
    source: str
    _key: bytes

    def wrap(self, plain: bytes, associated: bytes) -> bytes:
        """``plain`` encrypted, together with ``associated``."""
        return seal(self._key, plain, associated)

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """What was wrapped; ``Refused`` if it was by another key, or for other ``associated`` data."""
        try:
            return unseal(self._key, wrapped, associated)
        except InvalidTag:
            raise wrong(self.source) from None

    def __repr__(self) -> str:
        return f"SoftwareKek({self.source})"


@dataclass(frozen=True)
class Kind:
    """One kind: how a key is made for a new store, and how it is opened with a store's parameters.

    Both get the URI after the kind's name, and what asks a person (None: nobody can be asked).
    """

    make: Callable[[str, Ask | None], Kek]
    open: Callable[[str, Fields, Ask | None], Kek]


def make(uri: str, ask: Ask | None = None) -> Kek:
    """A key for a new store, or for a rotation. A file that does not exist is made."""
    name, rest = _split(uri)
    return KINDS[name].make(rest, ask)


def open_kek(uri: str, parameters: object, ask: Ask | None = None) -> Kek:
    """The key of a store with these parameters; ``Refused`` if the store's key is of another kind."""
    name, rest = _split(uri)
    fields = Fields(parameters, "kek")
    kind = fields.text("kind", limit=32)
    if kind != name:
        raise Refused(f"kek-kind: --kek names a {name} key, but the store was made with a {kind} key")
    found = KINDS[name].open(rest, fields, ask)
    fields.end()
    return found


def _split(uri: str) -> tuple[str, str]:
    name, _, rest = uri.partition(":")
    if name not in KINDS:
        raise UsageError(f"--kek {uri[:80]}: expected {SHAPES}")
    return name, rest


def _file_path(rest: str) -> Path:
    if not rest:
        raise UsageError("--kek file: no path, expected file:PATH")
    return Path(rest)


def _make_file(rest: str, _: Ask | None) -> Kek:
    path = _file_path(rest)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _open_file(rest)
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror or error}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(KEY_SIZE))
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(path.parent)
    return _open_file(rest)


def _open_file(rest: str) -> Kek:
    path = _file_path(rest)
    return SoftwareKek({"kind": FILE}, str(path), secret_file(path, KEY_SIZE, KEY_SIZE))


def secret_file(path: Path, least: int, most: int) -> bytes:
    """The content of a file that only its owner can read, of ``least`` to ``most`` bytes; ``HostError`` if not so."""
    try:
        mode = path.stat().st_mode
        data = read_start(path, most)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror or error}") from error
    if mode & _OTHERS:
        raise HostError(
            f"{path} has mode {stat.S_IMODE(mode):04o}: other users can use it, expected 0600",
            hint=f"`chmod 600 {path}`, and ask who could read it until now",
        )
    if not least <= len(data) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise HostError(f"{path}: {len(data)} bytes, expected {expected}: not a secret of this kind")
    return data


def _passphrase(rest: str, ask: Ask | None) -> bytes:
    if rest:
        return secret_file(Path(rest), MIN_PASSPHRASE, _MAX_PASSPHRASE).rstrip(b"\r\n")
    if ask is None:
        raise HostError("a passphrase is needed, and there is nobody to ask for it")
    return ask(_PROMPT).encode()


def _derived(passphrase: bytes, salt: bytes) -> Kek:
    key = Scrypt(salt=salt, length=KEY_SIZE, n=SCRYPT_N, r=8, p=1).derive(passphrase)
    return SoftwareKek({"kind": PASSPHRASE, "n": SCRYPT_N, "salt": salt.hex()}, "that passphrase", key)


def _make_passphrase(rest: str, ask: Ask | None) -> Kek:
    given = _passphrase(rest, ask)
    if not rest and ask is not None and ask(f"{_PROMPT}, once more").encode() != given:
        raise UsageError("the two passphrases differ, expected the same", hint="nothing was made: try again")
    if len(given) < MIN_PASSPHRASE:
        raise UsageError(
            f"the passphrase has {len(given)} bytes, expected at least {MIN_PASSPHRASE}",
            hint="whoever has a copy of the store can try passphrases: six random words are good ones",
        )
    return _derived(given, os.urandom(SALT_SIZE))


def _open_passphrase(rest: str, fields: Fields, ask: Ask | None) -> Kek:
    fields.integer("n", low=SCRYPT_N, high=SCRYPT_N)
    salt = fields.hexadecimal("salt", SALT_SIZE)
    return _derived(_passphrase(rest, ask), salt)


def _make_token(rest: str, ask: Ask | None) -> Kek:
    from privml.keybroker import tokenkek  # most stores have none

    return tokenkek.load(f"{PKCS11}:{rest}", ask)


def _open_token(rest: str, fields: Fields, ask: Ask | None) -> Kek:
    found = _make_token(rest, ask)
    if fields.text("object", limit=256) != found.parameters["object"]:
        raise wrong("another key of the token")
    return found


KINDS: Mapping[str, Kind] = {
    FILE: Kind(_make_file, lambda rest, _, __: _open_file(rest)),
    PASSPHRASE: Kind(_make_passphrase, _open_passphrase),
    PKCS11: Kind(_make_token, _open_token),
}
"""The kinds of keys, by the beginning of their URI."""
