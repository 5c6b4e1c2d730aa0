"""GPT: a disk image's partitions, and the bytes that firmware measures when it first loads an image from that disk.

Source: TCG PC Client Platform Firmware Profile 1.06 section 10.2.4 (UEFI_GPT_DATA); edk2 SecurityPkg
DxeTpm2MeasureBootLib.c Tcg2MeasureGptTable; UEFI 2.10 section 5.3. Edk2 after 202605 checks the header's CRC before
it measures, and earlier ones measure whatever is there: a table with a wrong CRC is refused here.
"""

from __future__ import annotations

import mmap
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import MeasurementError, PrivmlError
from privml.measure.digest import Bytes, piece, unsigned

SECTOR = 512
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_SIGNATURE = b"EFI PART"
_HEADER = 92
_ENTRY = 128
_MAX_ENTRIES = 1024
_UNUSED = bytes(16)


@dataclass(frozen=True)
class Partition:
    """One used entry: its type and own GUID, the byte range in the image, its name, and its attribute bits."""

    type: uuid.UUID
    guid: uuid.UUID
    start: int
    end: int
    name: str
    flags: int = 0

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Table:
    """A valid primary table: ``event`` is what is measured (header, count, used entries)."""

    disk: uuid.UUID
    partitions: tuple[Partition, ...]
    event: bytes


def is_disk(image: Bytes) -> bool:
    """True when ``image`` claims to be a disk with a GPT and 512-byte sectors."""
    return image[SECTOR : SECTOR + 8] == _SIGNATURE


def table(image: Bytes) -> Table:
    """The primary partition table of a disk image; ``MeasurementError`` when it is malformed or a CRC is wrong."""
    if not is_disk(image):
        raise MeasurementError("not a GPT disk image: there is no `EFI PART` at byte 512")
    size = unsigned(image, SECTOR + 12, 4, "GPT header size")
    if not _HEADER <= size <= SECTOR:
        raise MeasurementError(f"GPT: header of {size} bytes, expected {_HEADER} to {SECTOR}")
    header = piece(image, SECTOR, size, "GPT header")
    crc = int.from_bytes(header[16:20], "little")
    if zlib.crc32(header[:16] + bytes(4) + header[20:]) != crc:
        raise MeasurementError("GPT: the header's CRC32 is wrong")
    if int.from_bytes(header[24:32], "little") != 1:
        raise MeasurementError("GPT: the header says that it is not in sector 1")
    return _table(header[:_HEADER], _entries(image, header))


def read(path: Path, *, error: type[PrivmlError] = MeasurementError) -> Table:
    """The partition table of a whole disk image, all of whose partitions must lie in it.

    ``error``, which names the file, when there is no table, or when it is malformed.
    """
    try:
        return _whole(path)
    except MeasurementError as problem:
        raise error(f"{path.name}: {problem.message}") from problem


def _whole(path: Path) -> Table:
    if not path.stat().st_size:
        return table(b"")  # which cannot be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        found = table(image)
        for one in found.partitions:
            if one.end > len(image):
                raise MeasurementError(
                    f"GPT: partition `{one.name}` ends at byte {one.end} of a disk of {len(image)} bytes"
                )
        return found


def _entries(image: Bytes, header: bytes) -> list[bytes]:
    at, count, size = (int.from_bytes(header[a:b], "little") for a, b in ((72, 80), (80, 84), (84, 88)))
    if size != _ENTRY or not 1 <= count <= _MAX_ENTRIES:
        raise MeasurementError(
            f"GPT: {count} entries of {size} bytes, expected 1 to {_MAX_ENTRIES} entries of {_ENTRY}"
        )
    raw = piece(image, at * SECTOR, count * size, "GPT entries")
    if zlib.crc32(raw) != int.from_bytes(header[88:92], "little"):
        raise MeasurementError("GPT: the CRC32 of the entries is wrong")
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _table(header: bytes, entries: list[bytes]) -> Table:
    used = [entry for entry in entries if entry[:16] != _UNUSED]
    return Table(
        disk=uuid.UUID(bytes_le=header[56:72]),
        partitions=tuple(_partition(entry) for entry in used),
        event=header + len(used).to_bytes(8, "little") + b"".join(used),
    )


def _partition(entry: bytes) -> Partition:
    first, last = int.from_bytes(entry[32:40], "little"), int.from_bytes(entry[40:48], "little")
    if first > last:
        raise MeasurementError(f"GPT: a partition begins at sector {first} and ends at {last}")
    try:
        name = entry[56:128].decode("utf-16-le").split("\0", 1)[0]
    except UnicodeDecodeError as error:
        raise MeasurementError("GPT: a partition's name is not UTF-16") from error
    return Partition(
        type=uuid.UUID(bytes_le=entry[:16]),
        guid=uuid.UUID(bytes_le=entry[16:32]),
        start=first * SECTOR,
        end=(last + 1) * SECTOR,
        name=name,
        flags=int.from_bytes(entry[48:56], "little"),
    )


def decode_event(data: bytes) -> Table:
    """Read an EV_EFI_GPT_EVENT's data, as logs carry it; ``MeasurementError`` when lengths or CRC do not fit."""
    header = piece(data, 0, _HEADER, "GPT event")
    count = unsigned(data, _HEADER, 8, "GPT event")
    if header[:8] != _SIGNATURE or count > _MAX_ENTRIES or len(data) != _HEADER + 8 + count * _ENTRY:
        raise MeasurementError(f"GPT event of {len(data)} bytes with {count} entries is malformed")
    if zlib.crc32(header[:16] + bytes(4) + header[20:]) != int.from_bytes(header[16:20], "little"):
        raise MeasurementError("GPT event: the header's CRC32 is wrong")
    body = data[_HEADER + 8 :]
    return _table(header, [body[start : start + _ENTRY] for start in range(0, len(body), _ENTRY)])
