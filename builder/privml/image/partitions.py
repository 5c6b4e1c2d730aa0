"""Write a GPT disk from the partitions of other disks: a function of their bytes, names and GUIDs.

Firmware measures header and entries of the result into RTMR1 (`events.gpt`). Source: UEFI 2.10 section 5.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from privml.base.errors import BuildError
from privml.base.files import CHUNK
from privml.events.gpt import ENTRY, HEADER, SECTOR, SIGNATURE, Partition
from privml.measure import gpt

MIB = 1 << 20
ENTRIES = 128
_TABLE = ENTRIES * ENTRY // SECTOR
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_REVISION = 0x10000
# A protective MBR: one partition of type EEh over the whole disk, so that older programs leave it alone.
_PROTECTIVE = struct.Struct("<446xB3sB3sII48x2s")


@dataclass(frozen=True)
class Source:
    """A partition of the disk image ``file``."""

    file: Path
    partition: Partition


def sources(*files: Path) -> tuple[Source, ...]:
    """Every partition of the disk images ``files``, in order."""
    return tuple(Source(file, each) for file in files for each in gpt.read(file, error=BuildError).partitions)


def write(target: Path, disk: uuid.UUID, parts: Sequence[Source]) -> None:
    """Write ``target`` with copies of ``parts``, each at a multiple of 1 MiB; holes stay holes.

    Type, GUID, name and attributes of each partition stay as they are. ``BuildError`` if two share a name or GUID,
    because the guest finds partitions by name.
    """
    for what, keys in (("name", [p.partition.name for p in parts]), ("GUID", [p.partition.guid for p in parts])):
        if len(set(keys)) != len(keys):
            raise BuildError(f"{target.name}: two partitions have the same {what}: {', '.join(map(str, keys))}")
    if not 1 <= len(parts) <= ENTRIES:
        raise BuildError(f"{target.name}: {len(parts)} partitions, expected 1 to {ENTRIES}")
    starts, end = [], MIB
    for each in parts:
        starts.append(end)
        end += -(-each.partition.size // MIB) * MIB
    sectors = (end + MIB) // SECTOR
    last = sectors - 1
    entries = b"".join(_entry(each.partition, start) for each, start in zip(parts, starts, strict=True))
    entries = entries.ljust(ENTRIES * ENTRY, b"\0")
    with target.open("wb") as out:
        out.truncate(sectors * SECTOR)
        out.write(_PROTECTIVE.pack(0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, min(last, 0xFFFFFFFF), b"\x55\xaa"))
        for here, other, table in ((1, last, 2), (last, 1, last - _TABLE)):
            out.seek(table * SECTOR)
            out.write(entries)
            out.seek(here * SECTOR)
            out.write(_header(disk, entries, here=here, other=other, table=table, last=last))
        for each, start in zip(parts, starts, strict=True):
            _copy(each, out, start)


def _entry(part: Partition, start: int) -> bytes:
    first, name = start // SECTOR, part.name.encode("utf-16-le")
    last = first + part.size // SECTOR - 1
    return _ENTRY.pack(part.type.bytes_le, part.guid.bytes_le, first, last, part.flags, name)


def _header(disk: uuid.UUID, entries: bytes, *, here: int, other: int, table: int, last: int) -> bytes:
    first_usable, last_usable = 2 + _TABLE, last - _TABLE - 1
    fields = [
        SIGNATURE, _REVISION, HEADER, 0, 0, here, other, first_usable, last_usable, disk.bytes_le, table, ENTRIES,
        ENTRY, zlib.crc32(entries),
    ]  # fmt: skip
    fields[3] = zlib.crc32(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _copy(source: Source, out: BinaryIO, start: int) -> None:
    """Copy a partition; blocks of zeros are left as holes."""
    part = source.partition
    with source.file.open("rb") as file:
        file.seek(part.start)
        done = 0
        while done < part.size:
            block = file.read(min(CHUNK, part.size - done))
            if not block:
                raise BuildError(
                    f"{source.file.name}: partition `{part.name}` ends after {done} of {part.size} bytes"
                )
            if block.count(0) != len(block):
                out.seek(start + done)
                out.write(block)
            done += len(block)
