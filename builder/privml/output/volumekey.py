"""The file with the key of an encrypted volume, ``privml-volume-key/v1``. Only its owner can read it.

`image --key` reads it, and the key's owner keeps it. A key is passed to no program by argument or environment, and no
output directory, log or cache has one; `VolumeKey` does not show it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.errors import EvidenceError, InputsError
from privml.base.resource import generation_of, resource_of
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.events.crypt import KEY_SIZE, Crypt, check_key, check_value

FORMAT = "privml-volume-key/v1"
MODE = 0o600
_MAX_FILE = 4096
_MAX_KEYS = 32


@dataclass(frozen=True)
class VolumeKey:
    """The key of one volume: its resource's name, its generation, and 64 bytes."""

    resource: str
    generation: int
    key: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The content of the file: canonical JSON and a line end."""
        return canonical(_object(self)) + b"\n"

    @classmethod
    def decode(cls, data: bytes, what: str = "volume key") -> VolumeKey:
        """Parse a file's content; ``EvidenceError`` for anything but these fields and a usable key."""
        return _from_fields(Fields(loads(data, what=what, limit=_MAX_FILE), what))

    def crypt(self, broker: str) -> Crypt:
        """The encryption of a volume under this key, which ``broker`` releases."""
        return Crypt(broker, self.resource, self.generation, self.check)

    @property
    def check(self) -> bytes:
        """The key's check value (32 bytes), which is public."""
        return check_value(self.resource, self.generation, self.key)

    def write(self, path: Path) -> None:
        """Write the new file ``path``, which only its owner can read; ``FileExistsError`` if there is one."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        with os.fdopen(handle, "wb") as file:
            file.write(self.encode())
            file.flush()
            os.fsync(handle)


def read(path: Path) -> VolumeKey:
    """The key in ``path``; ``InputsError`` for a file that others can read, or that is not a key's."""
    try:
        # Without waiting: opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputsError(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    try:
        _check_mode(path, os.fstat(handle).st_mode)
        data = os.read(handle, _MAX_FILE + 1)
    finally:
        os.close(handle)
    try:
        return VolumeKey.decode(data, path.name)
    except EvidenceError as error:
        raise InputsError(
            f"{path} is not the file of a volume's key: {error.message}",
            hint="`privml-build keys add --out FILE` writes one",
        ) from error


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputsError(f"{path} is not a regular file, expected a volume's key")
    if mode & 0o077:
        raise InputsError(
            f"{path} has mode {stat.S_IMODE(mode):04o}, so others may have read the key; expected {MODE:04o}",
            hint=f"`chmod 600 {path}` if nobody has; otherwise make a new key and encrypt the volume again",
        )


def encode_all(keys: Sequence[VolumeKey]) -> bytes:
    """Several keys as canonical JSON, for a pipe between two processes of privml-build; never for a file."""
    return canonical([_object(key) for key in keys])


def decode_all(data: bytes) -> tuple[VolumeKey, ...]:
    """What `encode_all` made; ``EvidenceError`` for anything else."""
    value = loads(data, what="volume keys", limit=_MAX_KEYS * _MAX_FILE)
    if not isinstance(value, list):
        raise EvidenceError("volume keys: expected a list")
    return tuple(_from_fields(Fields(item, f"volume keys[{n}]")) for n, item in enumerate(value))


def _object(key: VolumeKey) -> dict[str, object]:
    return {"format": FORMAT, "resource": key.resource, "generation": key.generation, "key": b64(key.key)}


def _from_fields(fields: Fields) -> VolumeKey:
    fields.text("format", one_of=(FORMAT,))
    found = VolumeKey(resource_of(fields), generation_of(fields), fields.base64("key", limit=KEY_SIZE))
    fields.end()
    try:
        check_key(found.key)
    except ValueError as error:
        raise EvidenceError(f"{fields.path}: {error}") from error
    return found
