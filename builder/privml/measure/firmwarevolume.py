"""Firmware volumes, their files and the sections of files, as offsets into the bytes that they were read from.

Source: UEFI PI specification 1.8, volume 3, sections 2 and 3 (EFI_FIRMWARE_VOLUME_HEADER, EFI_FFS_FILE_HEADER,
EFI_COMMON_SECTION_HEADER). Only what edk2 builds for OVMF: file system 2, erased bits are 1, no files or sections of
16 MiB and more.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned

FILE_SYSTEM = uuid.UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
FILE_RAW, FILE_PADDING = 0x01, 0xF0
"""Types of files. A raw file, such as the reset vector, has no sections."""
COMPRESSED, GUID_DEFINED, PE32, DRIVER_DEPENDENCIES, VERSION = 0x01, 0x02, 0x10, 0x13, 0x14
USER_INTERFACE, FIRMWARE_VOLUME, RAW, EARLY_DEPENDENCIES = 0x15, 0x17, 0x19, 0x1B
"""Types of sections."""
_ERASED = 0xFF
_HEADER = 24
_MAX_FILES = 1000
_LARGE = 0x01  # an attribute of files with a longer header
_CHECKSUM = 0x40  # an attribute of files whose data are summed
_UNSUMMED = 0xAA
_VALID = 0xF8  # state of a file that is whole; inverted, since erased bits are 1
_ERASE_POLARITY = 0x800  # an attribute of volumes: erased bits are 1


@dataclass(frozen=True)
class Section:
    """A section of ``type``: its ``size`` bytes of data start at ``offset``."""

    type: int
    offset: int
    size: int


@dataclass(frozen=True)
class File:
    """A file of a volume: ``size`` bytes with its header, from ``offset`` on. ``name`` is its UI section's text."""

    guid: uuid.UUID
    type: int
    offset: int
    size: int
    name: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Volume:
    """A volume of ``size`` bytes at ``offset``; ``files`` without padding, () if its file system is another."""

    offset: int
    size: int
    file_system: uuid.UUID
    files: tuple[File, ...]


def volumes(data: bytes, what: str) -> tuple[Volume, ...]:
    """The volumes that fill ``data`` from its start; ``MeasurementError`` if they do not, or one is malformed."""
    found = []
    position = 0
    while position < len(data):
        found.append(volume(data, position, what))
        position += found[-1].size
    return tuple(found)


def volume(data: bytes, offset: int, what: str) -> Volume:
    """The volume at ``offset`` of ``data``."""
    if piece(data, offset + 40, 4, what) != b"_FVH":
        raise MeasurementError(f"{what}: no firmware volume at byte {offset}")
    size = unsigned(data, offset + 32, 8, what)
    length, extension = (unsigned(data, offset + at, 2, what) for at in (48, 52))
    header = piece(data, offset, length, what)
    if length < 56 or length % 2 or _sum16(header) or size < length or offset + size > len(data):
        raise MeasurementError(f"{what}: the volume at byte {offset} has a malformed header")
    if not unsigned(data, offset + 44, 4, what) & _ERASE_POLARITY:
        raise MeasurementError(f"{what}: erased bits of the volume at byte {offset} are 0, expected 1")
    file_system = uuid.UUID(bytes_le=piece(data, offset + 16, 16, what))
    if file_system != FILE_SYSTEM:
        return Volume(offset, size, file_system, ())
    first = offset + length
    if extension:
        first = offset + extension + unsigned(data, offset + extension + 16, 4, what)
    return Volume(offset, size, file_system, tuple(_files(data, offset, first, offset + size, what)))


def sections(data: bytes, start: int, end: int, what: str) -> tuple[Section, ...]:
    """The sections that fill ``data`` from ``start`` to ``end``; each starts at a multiple of 4 from ``start``."""
    found = []
    position = start
    while position < end:
        size = unsigned(data, position, 3, what)
        if size < 4 or position + size > end:
            raise MeasurementError(f"{what}: section of {size} bytes at byte {position} does not fit")
        found.append(Section(data[position + 3], position + 4, size - 4))
        position += size + -(position + size - start) % 4
    return tuple(found)


def pad(data: bytearray, file: File) -> None:
    """Turn ``file`` of the volumes in ``data`` into padding of its size."""
    header = bytearray(_HEADER)
    header[:16] = bytes([_ERASED]) * 16
    header[18] = FILE_PADDING
    header[20:23] = file.size.to_bytes(3, "little")
    header[16] = -sum(header) % 256  # the checksum counts neither that of the data nor the state
    header[17], header[23] = _UNSUMMED, _VALID
    data[file.offset : file.offset + file.size] = header.ljust(file.size, bytes([_ERASED]))


def _files(data: bytes, base: int, first: int, end: int, what: str) -> Iterator[File]:
    """The files between ``first`` and ``end``, at multiples of 8 from ``base``; the rest must be erased."""
    position = first + -(first - base) % 8
    if first < base or position > end:
        raise MeasurementError(f"{what}: the files of the volume at byte {base} start outside it")
    for _ in range(_MAX_FILES):
        if not data[position : min(position + _HEADER, end)].strip(bytes([_ERASED])):
            if data.count(_ERASED, position, end) != end - position:
                raise MeasurementError(f"{what}: bytes after the last file of the volume at byte {base}")
            return
        header = piece(data, position, _HEADER, what)
        size = int.from_bytes(header[20:23], "little")
        summed = sum(header) - header[17] - header[23]
        if size < _HEADER or position + size > end or summed % 256 or header[23] != _VALID:
            raise MeasurementError(f"{what}: malformed file at byte {position}")
        if header[19] & (_LARGE | _CHECKSUM) or header[17] != _UNSUMMED:
            raise MeasurementError(f"{what}: file at byte {position} with attributes 0x{header[19]:x}, not supported")
        if header[18] != FILE_PADDING:
            yield _file(data, position, size, what)
        position += size + -(position + size - base) % 8
    raise MeasurementError(f"{what}: more than {_MAX_FILES} files in a volume")


def _file(data: bytes, offset: int, size: int, what: str) -> File:
    kind = data[offset + 18]
    inner = () if kind == FILE_RAW else sections(data, offset + _HEADER, offset + size, what)
    names = [data[each.offset : each.offset + each.size] for each in inner if each.type == USER_INTERFACE]
    if len(names) > 1:
        raise MeasurementError(f"{what}: file at byte {offset} has {len(names)} names")
    return File(uuid.UUID(bytes_le=data[offset : offset + 16]), kind, offset, size, _name(*names, what=what), inner)


def _name(raw: bytes = b"", *, what: str) -> str:
    try:
        return raw.decode("utf-16-le").removesuffix("\0")
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{what}: the name of a file is not UTF-16") from error


def _sum16(data: bytes) -> int:
    return sum(int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)) % 65536
