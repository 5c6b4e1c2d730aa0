"""What an OVMF firmware file says to the VMM that starts it as an SNP guest.

Source: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import IntEnum

from privml.base.errors import MeasurementError
from privml.measure import guidtable
from privml.measure.digest import piece, unsigned
from privml.measure.snp.pages import PAGE

_RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_MAX_SECTIONS = 32
_MAX_SIZE = 1 << 28  # of a section; real ones have some hundred KiB


class SectionType(IntEnum):
    """Types of sections in the firmware's table."""

    MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


_ONE_PAGE = (SectionType.SECRETS, SectionType.CPUID, SectionType.KERNEL_HASHES)


@dataclass(frozen=True)
class Section:
    """Pages that the VMM adds before the guest runs, ``size`` bytes at ``gpa``; whole pages."""

    gpa: int
    size: int
    kind: SectionType


@dataclass(frozen=True)
class Table:
    """Where processors other than the first start, the sections in order, and where in memory the hashes of kernel,
    initrd and command line go (None if this firmware checks none)."""

    reset_eip: int
    sections: tuple[Section, ...]
    hashes: int | None


def read(firmware: bytes) -> Table:
    """The table of a firmware file; ``MeasurementError`` for a file that cannot start an SNP guest.

    Sections without a size are left out: they add nothing.
    """
    if not firmware or len(firmware) % PAGE:
        raise MeasurementError(f"firmware: {len(firmware)} bytes, expected whole pages of {PAGE}")
    if guidtable.entry(firmware, _METADATA) is None:
        raise MeasurementError("firmware: no SEV metadata: this build cannot start an SNP guest")
    found = _sections(firmware)
    hashes = _hashes(firmware)
    places = [section for section in found if section.kind == SectionType.KERNEL_HASHES]
    if hashes is not None and places and hashes - hashes % PAGE not in [section.gpa for section in places]:
        raise MeasurementError(f"firmware: the hash table at 0x{hashes:x} is in none of its sections")
    return Table(_number(firmware, _RESET_BLOCK, "SEV-ES reset block"), found, hashes if places else None)


def _hashes(firmware: bytes) -> int | None:
    data = guidtable.entry(firmware, _HASH_TABLE)
    return (None if data is None else unsigned(data, 0, 4, "hash table's place")) or None


def _sections(firmware: bytes) -> tuple[Section, ...]:
    start = len(firmware) - _number(firmware, _METADATA, "SEV metadata")
    if piece(firmware, start, 4, "SEV metadata") != b"ASEV":
        raise MeasurementError("firmware: no `ASEV` signature where the GUID table points")
    size, version, count = (unsigned(firmware, start + at, 4, "SEV metadata") for at in (4, 8, 12))
    if version != 1:
        raise MeasurementError(f"firmware: SEV metadata of version {version}, expected 1")
    if not 1 <= count <= _MAX_SECTIONS or size != 16 + 12 * count:
        raise MeasurementError(f"firmware: {count} SEV sections in {size} bytes, expected 1 to {_MAX_SECTIONS}")
    every = [_section(firmware, start + 16 + 12 * number) for number in range(count)]
    found = tuple(section for section in every if section.size)
    for kind in _ONE_PAGE:
        of_kind = [section for section in found if section.kind == kind]
        if len(of_kind) > 1 or any(section.size != PAGE for section in of_kind):
            raise MeasurementError(f"firmware: section {kind.name} is not one page")
    # An SNP guest cannot run without them; a firmware whose entries have no size is one for another TEE.
    for kind in (SectionType.SECRETS, SectionType.CPUID):
        if all(section.kind != kind for section in found):
            raise MeasurementError(f"firmware: no section {kind.name}: this build cannot start an SNP guest")
    return found


def _section(firmware: bytes, at: int) -> Section:
    gpa, size, number = (unsigned(firmware, at + place, 4, "SEV section") for place in (0, 4, 8))
    try:
        kind = SectionType(number)
    except ValueError as error:
        raise MeasurementError(f"firmware: SEV section of type {number}, which is not known") from error
    if gpa % PAGE or size % PAGE or size > _MAX_SIZE or gpa + size > 1 << 32:
        raise MeasurementError(f"firmware: SEV section {kind.name} at 0x{gpa:x} of 0x{size:x} bytes is malformed")
    return Section(gpa, size, kind)


def _number(firmware: bytes, guid: uuid.UUID, what: str) -> int:
    data = guidtable.entry(firmware, guid)
    if data is None:
        raise MeasurementError(f"firmware: no {what} in its GUID table")
    return unsigned(data, 0, 4, what)
