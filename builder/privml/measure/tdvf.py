"""TDVF metadata: where the VMM places each part of a firmware file, and which parts it measures.

Source: edk2 OvmfPkg/ResetVector/X64/IntelTdxMetadata.nasm.inc; Intel TDX Virtual Firmware Design Guide 1.01
section 11. Offsets in the descriptor count from the start of the file.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure import guidtable
from privml.measure.digest import piece, unsigned

BFV = 0
CFV = 1
TD_HOB = 2
TEMP_MEM = 3
TYPE_NAMES = {
    BFV: "BFV",
    CFV: "CFV",
    TD_HOB: "TD_HOB",
    TEMP_MEM: "TempMem",
    4: "PermMem",
    5: "Payload",
    6: "PayloadParam",
    7: "TD_INFO",
}

ATTRIBUTE_EXTEND = 1
ATTRIBUTE_PAGE_AUG = 2
PAGE = 4096

_TDX_OFFSET = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_MAX_SECTIONS = 32
_MAX_MEMORY = 1 << 28  # of an added section; real ones have 4 MiB


@dataclass(frozen=True)
class FirmwareSection:
    """One section: ``raw_size`` bytes of the file at ``offset``, mapped at ``gpa`` over ``memory_size`` bytes."""

    type: int
    offset: int
    raw_size: int
    gpa: int
    memory_size: int
    attributes: int

    @property
    def type_name(self) -> str:
        """The type's name, or its number."""
        return TYPE_NAMES.get(self.type, str(self.type))


def sections(firmware: bytes) -> tuple[FirmwareSection, ...]:
    """The sections of a unified firmware file, in the order of its descriptor.

    ``MeasurementError`` for a file without TDX metadata, for a split ``OVMF_CODE`` file (its descriptor points past
    its end) and for sections that overlap the end, are not page aligned, or shrink.
    """
    start = _descriptor(firmware)
    if piece(firmware, start, 4, "TDVF descriptor") != b"TDVF":
        raise MeasurementError("firmware: no `TDVF` signature where the GUID table points")
    version = unsigned(firmware, start + 8, 4, "TDVF version")
    if version != 1:
        raise MeasurementError(f"firmware: TDVF descriptor version {version}, expected 1")
    count = unsigned(firmware, start + 12, 4, "TDVF section count")
    if not 1 <= count <= _MAX_SECTIONS:
        raise MeasurementError(f"firmware: {count} TDVF sections, expected 1 to {_MAX_SECTIONS}")
    return tuple(_section(firmware, start + 16 + 32 * number) for number in range(count))


def only(found: tuple[FirmwareSection, ...], kind: int) -> FirmwareSection:
    """The one section of type ``kind``; ``MeasurementError`` when there is none or more than one."""
    matching = [section for section in found if section.type == kind]
    if len(matching) != 1:
        raise MeasurementError(f"firmware: {len(matching)} {TYPE_NAMES.get(kind, kind)} sections, expected 1")
    return matching[0]


def _descriptor(firmware: bytes) -> int:
    found = guidtable.entry(firmware, _TDX_OFFSET)
    if found is None:
        raise MeasurementError("firmware: no TDX metadata: this build cannot start a TD")
    return len(firmware) - unsigned(found, len(found) - 4, 4, "TDVF offset")


def _section(firmware: bytes, at: int) -> FirmwareSection:
    row = piece(firmware, at, 32, "TDVF section")
    offset, raw, gpa, memory, kind, attributes = (
        int.from_bytes(row[start:end], "little")
        for start, end in ((0, 4), (4, 8), (8, 16), (16, 24), (24, 28), (28, 32))
    )
    section = FirmwareSection(kind, offset, raw, gpa, memory, attributes)
    if offset + raw > len(firmware):
        raise MeasurementError(
            f"firmware: section {section.type_name} ends at byte {offset + raw} of a file of {len(firmware)} bytes",
            hint="a split OVMF_CODE file has lost its variables: use the unified OVMF.fd or OVMF.inteltdx.fd",
        )
    too_large = memory > _MAX_MEMORY and not attributes & ATTRIBUTE_PAGE_AUG
    if gpa % PAGE or memory % PAGE or memory < raw or gpa + memory > 1 << 64 or too_large:
        raise MeasurementError(
            f"firmware: section {section.type_name} at 0x{gpa:x} of 0x{memory:x} bytes is malformed"
        )
    if attributes & ATTRIBUTE_EXTEND and memory != raw:
        raise MeasurementError(f"firmware: section {section.type_name} is measured but not whole in the file")
    return section
