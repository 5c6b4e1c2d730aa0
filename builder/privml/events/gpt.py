"""A disk's partition table as firmware measures it: the data of an EV_EFI_GPT_EVENT.

Source: TCG PC Client Platform Firmware Profile 1.06 section 10.2.4 (UEFI_GPT_DATA); UEFI 2.10 section 5.3.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from privml.base.errors import EvidenceError

SIGNATURE = b"EFI PART"
SECTOR = 512
HEADER = 92
ENTRY = 128
MAX_ENTRIES = 1024
_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True)
class Partition:
    """One used entry: its type and own GUID, the byte range in the image, its name, and its attribute bits."""

    type: uuid.UUID
    guid: uuid.UUID
    start: int
    end: int
    name: str
    flags: int

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Table:
    """A primary table: ``event`` is what is measured of it (header, count, used entries)."""

    disk: uuid.UUID
    partitions: tuple[Partition, ...]
    event: bytes


def header_crc(header: bytes) -> bool:
    """True when the CRC32 in a whole header is the header's."""
    return zlib.crc32(header[:16] + bytes(4) + header[20:]) == int.from_bytes(header[16:20], "little")


def decode(data: bytes) -> Table:
    """Read an event's data; ``EvidenceError`` when lengths, CRC or an entry do not fit.

    A header that is longer than what is measured of it has its CRC over bytes that are not there.
    """
    count = int.from_bytes(data[HEADER : HEADER + 8], "little")
    if data[:8] != SIGNATURE or count > MAX_ENTRIES or len(data) != HEADER + 8 + count * ENTRY:
        raise EvidenceError(f"GPT event of {len(data)} bytes with {count} entries is malformed")
    if int.from_bytes(data[12:16], "little") <= HEADER and not header_crc(data[:HEADER]):
        raise EvidenceError("GPT event: the header's CRC32 is wrong")
    return Table(
        disk=uuid.UUID(bytes_le=data[56:72]),
        partitions=tuple(_partition(*fields) for fields in _ENTRY.iter_unpack(data[HEADER + 8 :])),
        event=data,
    )


def _partition(kind: bytes, guid: bytes, first: int, last: int, flags: int, name: bytes) -> Partition:
    if first > last:
        raise EvidenceError(f"GPT: a partition begins at sector {first} and ends at {last}")
    try:
        text = name.decode("utf-16-le").split("\0", 1)[0]
    except UnicodeDecodeError as error:
        raise EvidenceError("GPT: a partition's name is not UTF-16") from error
    return Partition(
        uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=guid), first * SECTOR, (last + 1) * SECTOR, text, flags
    )
