"""The TD HOB list: QEMU's description of memory for a TD's firmware, which measures it first.

Source: QEMU 11.1 hw/i386/tdvf-hob.c; edk2 OvmfPkg/Library/TdxHelperLib (TdxHelperMeasureTdHob); UEFI PI 1.8
volume 3. Confirmed against hardware quotes of 1, 2 and 64 GiB guests.
"""

from __future__ import annotations

import struct

from privml.base.errors import MeasurementError
from privml.measure.tdvf import TD_HOB, TEMP_MEM, FirmwareSection, only

_GIB4 = 1 << 32
_Q35_SPLIT_AT = 0xB0000000
_Q35_LOW = 0x80000000
_SYSTEM_MEMORY = 0
_UNACCEPTED = 7
_PRESENT_INITIALISED_TESTED = 7
_END_HOB_SIZE = 8
_MIN_MEMORY = 64 << 20


def ram_ranges(memory: int) -> list[tuple[int, int]]:
    """The (start, end) ranges of a q35 machine's ``memory`` bytes of RAM, split around the PCI hole below 4 GiB."""
    if memory < _Q35_SPLIT_AT:
        return [(0, memory)]
    return [(0, _Q35_LOW), (_GIB4, _GIB4 + memory - _Q35_LOW)]


def td_hob(sections: tuple[FirmwareSection, ...], memory: int) -> bytes:
    """The measured bytes: hand-off HOB and one resource HOB a range, without the end HOB.

    ``memory`` is the machine's RAM in bytes. ``MeasurementError`` when it is not a multiple of a page or too small.
    """
    if memory % 4096 or memory < _MIN_MEMORY:
        raise MeasurementError(f"memory of {memory} bytes: expected a multiple of 4096, at least {_MIN_MEMORY}")
    hob = only(sections, TD_HOB)
    added = sorted((one.gpa, one.gpa + one.memory_size) for one in sections if one.type in (TD_HOB, TEMP_MEM))
    ranges = ram_ranges(memory)
    for start, end in added:
        # QEMU starts no such machine, so there is nothing to predict.
        if not any(low <= start < end <= high for low, high in ranges):
            raise MeasurementError(f"firmware: section at 0x{start:x} does not lie in the machine's RAM")
    resources: list[bytes] = []
    for low, high in ranges:
        position = low
        for start, end in added:
            if not low <= start < end <= high:
                continue
            if start < position:
                raise MeasurementError(f"firmware: section at 0x{start:x} overlaps another")
            if start > position:
                resources.append(_resource(_UNACCEPTED, position, start - position))
            resources.append(_resource(_SYSTEM_MEMORY, start, end - start))
            position = end
        if position < high:
            resources.append(_resource(_UNACCEPTED, position, high - position))
    total = 56 + 48 * len(resources) + _END_HOB_SIZE
    handoff = struct.pack("<HHIII4QQ", 1, 56, 0, 9, 0, 0, 0, 0, 0, hob.gpa + total)
    return handoff + b"".join(resources)


def _resource(kind: int, start: int, length: int) -> bytes:
    return struct.pack("<HHI16xIIQQ", 3, 48, 0, kind, _PRESENT_INITIALISED_TESTED, start, length)
