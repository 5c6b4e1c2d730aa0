"""SMBIOS: the table that OVMF publishes from QEMU's, the filter before it is hashed, and the stub's own events.

Source: edk2 MdeModulePkg/Universal/SmbiosMeasurementDxe and OvmfPkg/SmbiosPlatformDxe; SMBIOS 3.7; systemd 262
src/boot/measure-smbios.c. Checked byte for byte against a hardware TD and against software-TPM boots.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece

TABLES = "etc/smbios/smbios-tables"
TYPE_FIRMWARE = 0
TYPE_SYSTEM = 1
TYPE_BASEBOARD = 2
TYPE_OEM_STRINGS = 11
TYPE_END = 127
STUB_TYPES = (TYPE_SYSTEM, TYPE_BASEBOARD, TYPE_OEM_STRINGS)
"""The structures that systemd-stub measures."""

END = bytes.fromhex("7f04fffe0000")
_FIRMWARE_FIXED = bytes.fromhex("001a0000010200e803000800000000000000001c0000ffff0000")
_WAKE_UP = 0x18
_MAX_TABLE = 1 << 20
_MAX_VOLUME = 64 << 20


@dataclass(frozen=True)
class FirmwareStrings:
    """The strings of the firmware build in its Type 0 structure."""

    vendor: str
    version: str
    date: str


def structures(table: bytes) -> Iterator[tuple[int, int, int]]:
    """(start, formatted length, end) of each structure through Type 127; ``MeasurementError`` when malformed."""
    if len(table) > _MAX_TABLE:
        raise MeasurementError(f"SMBIOS table of {len(table)} bytes, expected at most {_MAX_TABLE}")
    position = 0
    while position < len(table):
        kind, length = piece(table, position, 2, "SMBIOS structure")
        if length < 4:
            raise MeasurementError(f"SMBIOS structure of type {kind} says that it is {length} bytes long")
        piece(table, position, length, "SMBIOS structure")
        strings = table.find(b"\0\0", position + length)
        if strings < 0:
            raise MeasurementError(f"SMBIOS structure of type {kind} at byte {position} has no end")
        yield position, length, strings + 2
        if kind == TYPE_END:
            return
        position = strings + 2


def published(qemu: bytes, strings: FirmwareStrings) -> bytes:
    """The table in a guest's memory: QEMU's structures, OVMF's Type 0, and the end structure."""
    kept = b"".join(qemu[start:end] for start, _, end in structures(qemu) if qemu[start] != TYPE_END)
    if any(kept[start] == TYPE_FIRMWARE for start, _, _ in structures(kept)):
        raise MeasurementError(
            "SMBIOS: QEMU was given a Type 0 structure: the firmware then adds none (not modelled)"
        )
    texts = b"".join(text.encode("ascii") + b"\0" for text in (strings.vendor, strings.version, strings.date))
    return kept + _FIRMWARE_FIXED + texts + b"\0" + END


# (offset, size, is a string) of the fields that are blanked, by structure type.
_FIELDS: dict[int, tuple[tuple[int, int, bool], ...]] = {
    1: ((0x07, 1, True), (0x08, 16, False), (0x18, 1, False)),
    2: ((0x07, 1, True), (0x0A, 1, True)),
    3: ((0x07, 1, True), (0x08, 1, True)),
    4: (
        (0x20, 1, True),
        (0x21, 1, True),
        (0x22, 1, True),
        (0x23, 1, False),
        (0x24, 1, False),
        (0x25, 1, False),
        (0x2A, 2, False),
        (0x2C, 2, False),
        (0x2E, 2, False),
        (0x11, 1, False),
        (0x16, 2, False),
    ),
    17: ((0x18, 1, True), (0x19, 1, True), (0x1A, 1, True)),
    22: ((0x07, 1, True), (0x10, 2, False), (0x12, 2, False)),
    23: ((0x05, 2, False),),
    27: ((0x0C, 2, False),),
    39: ((0x08, 1, True), (0x09, 1, True), (0x0A, 1, True)),
}
_WHOLE = frozenset({0x0B, 0x0F, 0x12, 0x1F, 0x21})


def filtered(table: bytes) -> bytes:
    """The bytes that the hand-off table event hashes: unique and volatile fields blanked, lengths kept.

    Types above 127 and those of ``_WHOLE`` lose everything after their header, strings too.
    """
    out = bytearray(table)
    for start, length, end in structures(table):
        kind = table[start]
        if kind >= 128 or kind in _WHOLE:
            out[start + 4 : end] = bytes(end - start - 4)
            continue
        for offset, size, is_string in _FIELDS.get(kind, ()):
            if offset + size > length:
                continue
            if is_string:
                _blank_string(out, table, start, length, end, table[start + offset])
            out[start + offset : start + offset + size] = bytes(size)
    return bytes(out)


def _blank_string(out: bytearray, table: bytes, start: int, length: int, end: int, number: int) -> None:
    if number == 0:
        return
    position = start + length
    for _ in range(number - 1):
        position = table.find(b"\0", position, end) + 1
        if position == 0 or position >= end:
            return
    stop = table.find(b"\0", position, end)
    out[position:stop] = b" " * (stop - position)


def stub_structures(table: bytes) -> tuple[tuple[int, bytes], ...]:
    """(type, bytes) of the structures that systemd-stub measures: types 1, 2 and 11, in table order.

    Whole structures with their strings, unfiltered; only Type 1's wake-up type is zeroed. Serial and UUID stay.
    """
    result: list[tuple[int, bytes]] = []
    for start, length, end in structures(table):
        kind = table[start]
        if kind in STUB_TYPES:
            data = bytearray(table[start:end])
            if kind == TYPE_SYSTEM and length > _WAKE_UP:
                data[_WAKE_UP] = 0
            result.append((kind, bytes(data)))
    return tuple(result)


_LZMA_SECTION = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
_TEXT = re.compile(rb"(?:[\x20-\x7e]\0){3,127}\0\0")
_DATE = re.compile(r"[0-9]{2}/[0-9]{2}/[0-9]{4}")
_NEAR = 512
_STEP = 1 << 18
_ALIGNMENT = 8


def firmware_strings(firmware: bytes) -> FirmwareStrings:
    """Read the Type 0 strings out of the firmware's compressed DXE volume.

    They are constants of OvmfPkg/SmbiosPlatformDxe, which follow its Type 0 template: date, version, vendor.
    ``MeasurementError`` when they are not found there as expected.
    """
    for near in _templates(firmware):
        texts = _constants(near)
        if len(texts) >= 3 and _DATE.fullmatch(texts[0]):
            return FirmwareStrings(vendor=texts[2], version=texts[1], date=texts[0])
    raise MeasurementError("firmware: the strings of its SMBIOS Type 0 structure were not found")


def _constants(data: bytes) -> list[str]:
    """The UTF-16 constants behind the template. They share its alignment; what fills the gaps (no-operation
    instructions) can look like one more character, so only aligned positions begin a text."""
    texts: list[str] = []
    position = _ALIGNMENT * -(-len(_FIRMWARE_FIXED) // _ALIGNMENT)
    while position < len(data):
        match = _TEXT.match(data, position)
        if match is None:
            position += _ALIGNMENT
            continue
        texts.append(match.group()[:-2].decode("utf-16-le"))
        position += _ALIGNMENT * -(-len(match.group()) // _ALIGNMENT)
    return texts


def _templates(firmware: bytes) -> Iterator[bytes]:
    """What follows the Type 0 template in each compressed volume that has it.

    Unpacking takes longer than all else that a prediction does, so it ends where the template was found.
    """
    position = firmware.find(_LZMA_SECTION)
    while position >= 0:
        start = position - 4 + int.from_bytes(piece(firmware, position + 16, 2, "LZMA section"), "little")
        with contextlib.suppress(lzma.LZMAError):  # the GUID also occurs where no section follows it
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_VOLUME * 4)
            volume, packed, at = bytearray(), firmware[start:], -1
            while len(volume) < _MAX_VOLUME and not decompressor.eof:
                unpacked = decompressor.decompress(packed, max_length=_STEP)
                if not unpacked and not decompressor.eof:
                    break  # cut off
                packed, searched = b"", max(len(volume) - len(_FIRMWARE_FIXED), 0)
                volume += unpacked
                at = volume.find(_FIRMWARE_FIXED, searched) if at < 0 else at
                if 0 <= at <= len(volume) - _NEAR:
                    break
            if at >= 0:
                yield bytes(volume[at : at + _NEAR])
        position = firmware.find(_LZMA_SECTION, position + 16)
