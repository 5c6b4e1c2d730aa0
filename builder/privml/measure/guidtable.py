"""The table of GUIDs at the end of an OVMF firmware file, through which its metadata are found.

It is read backwards from 32 bytes before the end: each entry is its data, a length (u16, of the whole entry) and a
GUID. Source: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from privml.base.errors import MeasurementError
from privml.measure.digest import unsigned

FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TAIL = 18  # length and GUID, which follow an entry's data


def entry(firmware: bytes, guid: uuid.UUID) -> bytes | None:
    """The data of the entry of ``guid``; None without one. ``MeasurementError`` for a malformed table or none."""
    return next((data for found, data in entries(firmware) if found == guid.bytes_le), None)


def entries(firmware: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(GUID as its bytes in the file, data) of each entry, from the last to the first."""
    end = len(firmware) - 32
    if end < _TAIL or firmware[end - 16 : end] != FOOTER:
        raise MeasurementError("firmware: no GUID table at its end: not an OVMF image")
    total = unsigned(firmware, end - _TAIL, 2, "GUID table length")
    start = end - total
    if total < _TAIL or start < 0:
        raise MeasurementError(f"firmware: GUID table of {total} bytes does not fit")
    position = end - _TAIL
    while position - _TAIL >= start:
        length = unsigned(firmware, position - _TAIL, 2, "GUID table entry")
        if length < _TAIL or position - length < start:
            raise MeasurementError(f"firmware: GUID table entry of {length} bytes does not fit")
        yield firmware[position - 16 : position], firmware[position - length : position - _TAIL]
        position -= length
