"""The dm-verity superblock at the start of a volume's hash partition (version 1).

Source: cryptsetup, "DMVerity on-disk format"; lib/verity/verity.c.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import MeasurementError, PrivmlError
from privml.measure.digest import piece

SIZE = 512
_MAGIC = b"verity\0\0"
_LAYOUT = struct.Struct("<8sII16s32sIIQH6x256s")
_MAX_SALT = 256


@dataclass(frozen=True)
class Superblock:
    """What a superblock says: ``hash_type`` is 1 for the salt in front of the data, block sizes are in bytes."""

    hash_type: int
    uuid: uuid.UUID
    algorithm: str
    data_block: int
    hash_block: int
    data_blocks: int
    salt: bytes


def is_superblock(data: bytes) -> bool:
    """True when ``data`` claims to be a verity superblock."""
    return data[: len(_MAGIC)] == _MAGIC


def superblock(data: bytes) -> Superblock:
    """Read the superblock at the start of ``data``; ``MeasurementError`` when it is malformed or not of version 1."""
    raw = piece(data, 0, _LAYOUT.size, "verity superblock")
    magic, version, hash_type, identifier, name, data_block, hash_block, blocks, length, salt = _LAYOUT.unpack(raw)
    if magic != _MAGIC or version != 1:
        raise MeasurementError(f"verity superblock: {magic!r} of version {version}, expected {_MAGIC!r} of version 1")
    algorithm = name.rstrip(b"\0")
    if not algorithm.isascii() or not algorithm.decode("ascii").isprintable():
        raise MeasurementError(f"verity superblock: {algorithm!r} is not the name of an algorithm")
    if length > _MAX_SALT:
        raise MeasurementError(f"verity superblock: a salt of {length} bytes, expected at most {_MAX_SALT}")
    return Superblock(
        hash_type,
        uuid.UUID(bytes=identifier),
        algorithm.decode("ascii"),
        data_block,
        hash_block,
        blocks,
        salt[:length],
    )


def read(path: Path, offset: int, *, error: type[PrivmlError] = MeasurementError) -> Superblock:
    """The superblock at ``offset`` in a disk image; ``error`` names the file when it is missing."""
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(SIZE)
    try:
        return superblock(raw)
    except MeasurementError as problem:
        raise error(f"{path.name}: {problem.message}") from problem
