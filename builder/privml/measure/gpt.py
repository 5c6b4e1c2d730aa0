"""GPT: a disk image's partitions, and the bytes that firmware measures when it first loads an image from that disk.

Source: edk2 SecurityPkg DxeTpm2MeasureBootLib.c Tcg2MeasureGptTable; UEFI 2.10 section 5.3. Edk2 after 202605 checks
the header's CRC before it measures, and earlier ones measure whatever is there: a table with a wrong CRC is refused
here. What is measured, and its entries, are read in ``events.gpt``.
"""

from __future__ import annotations

import mmap
import uuid
import zlib
from pathlib import Path

from privml.base.errors import EvidenceError, MeasurementError, PrivmlError
from privml.events import gpt
from privml.events.gpt import ENTRY, HEADER, MAX_ENTRIES, SECTOR, Table
from privml.measure.digest import Bytes, piece, unsigned

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_UNUSED = bytes(16)


def is_disk(image: Bytes) -> bool:
    """True when ``image`` claims to be a disk with a GPT and 512-byte sectors."""
    return image[SECTOR : SECTOR + 8] == gpt.SIGNATURE


def table(image: Bytes) -> Table:
    """The primary partition table of a disk image; ``MeasurementError`` when it is malformed or a CRC is wrong."""
    if not is_disk(image):
        raise MeasurementError("not a GPT disk image: there is no `EFI PART` at byte 512")
    size = unsigned(image, SECTOR + 12, 4, "GPT header size")
    if not HEADER <= size <= SECTOR:
        raise MeasurementError(f"GPT: header of {size} bytes, expected {HEADER} to {SECTOR}")
    header = piece(image, SECTOR, size, "GPT header")
    if not gpt.header_crc(header):
        raise MeasurementError("GPT: the header's CRC32 is wrong")
    if int.from_bytes(header[24:32], "little") != 1:
        raise MeasurementError("GPT: the header says that it is not in sector 1")
    used = [entry for entry in _entries(image, header) if entry[:16] != _UNUSED]
    try:
        return gpt.decode(header[:HEADER] + len(used).to_bytes(8, "little") + b"".join(used))
    except EvidenceError as error:
        raise MeasurementError(error.message) from error


def _entries(image: Bytes, header: bytes) -> list[bytes]:
    at, count, size = (int.from_bytes(header[a:b], "little") for a, b in ((72, 80), (80, 84), (84, 88)))
    if size != ENTRY or not 1 <= count <= MAX_ENTRIES:
        raise MeasurementError(
            f"GPT: {count} entries of {size} bytes, expected 1 to {MAX_ENTRIES} entries of {ENTRY}"
        )
    raw = piece(image, at * SECTOR, count * size, "GPT entries")
    if zlib.crc32(raw) != int.from_bytes(header[88:92], "little"):
        raise MeasurementError("GPT: the CRC32 of the entries is wrong")
    return [raw[start : start + size] for start in range(0, len(raw), size)]


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
