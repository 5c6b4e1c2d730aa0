"""Read the firmware's measured-boot log from the memory of a running guest.

The guest is an unchanged production guest and does not export its log, so its memory is a file
(``Launch.share_memory``). The log is located in it by its first record, as a TCG log that parses. Firmware and kernel
each keep a copy; the longest one is complete.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from privml.base.errors import EvidenceError, HostError
from privml.events.registers import RTMR2
from privml.events.replay import extended
from privml.events.tcg import LogEntry, parse_log
from privml.events.types import EV_EFI_ACTION
from privml.vm.machine import Machine

_SIGNATURE = b"Spec ID Event03\0"
_HEADER = 32  # TCG_PCR_EVENT before its data: index, type, SHA-1 digest, size
_LIMIT = 1 << 20
LAST = b"Exit Boot Services Returned with Success"


def candidates(memory: mmap.mmap | bytes, used: Iterable[tuple[int, int]] | None = None) -> Iterator[list[LogEntry]]:
    """Every TCG log in ``memory``, each up to its first unreadable record.

    ``used`` limits the search for a start to ranges (start, end); by default all of ``memory``.
    """
    for low, high in used if used is not None else [(0, len(memory))]:
        at = low - 1
        while (at := memory.find(_SIGNATURE, at + 1, high)) >= 0:
            start = at - _HEADER
            if start < 0:
                continue
            entries = longest(memory[start : start + _LIMIT])
            if entries:
                yield entries


def used_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of the written parts of a sparse file: a guest touches little of a large memory."""
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def longest(data: bytes) -> list[LogEntry]:
    """The log at the start of ``data``, without the memory that follows it."""
    low, high = 0, _record_end(data)
    ends = [low]
    while high is not None:
        ends.append(high)
        high = _record_end(data, high)
    for end in reversed(ends):
        try:
            return list(parse_log(data[:end]))
        except EvidenceError:
            continue
    return []


def _record_end(data: bytes, at: int = 0) -> int | None:
    """End of the record at ``at`` (TCG_PCR_EVENT at 0, TCG_PCR_EVENT2 afterwards); None if there is no record."""
    sizes = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
    if at == 0:
        return _sized(data, 28)
    if at + 12 > len(data):
        return None
    index, kind, count = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (0, 4, 8))
    if index > 23 or kind in (0, 0xFFFFFFFF) or not 1 <= count <= 5:
        return None
    place = at + 12
    for _ in range(count):
        size = sizes.get(int.from_bytes(data[place : place + 2], "little"))
        if size is None:
            return None
        place += 2 + size
    return _sized(data, place)


def _sized(data: bytes, at: int) -> int | None:
    if at + 4 > len(data):
        return None
    end = at + 4 + int.from_bytes(data[at : at + 4], "little")
    return end if end <= len(data) else None


def read(memory: Path) -> list[LogEntry]:
    """The longest log in a guest's memory file; empty if there is none yet."""
    with memory.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        return max(candidates(view, used_ranges(file.fileno())), key=len, default=[])


def complete(entries: list[LogEntry]) -> bool:
    """True if the log reaches the handover to the kernel."""
    return any(
        entry.type == EV_EFI_ACTION and entry.data == LAST and extended(entry, tpm=True) is not None
        for entry in entries
    ) and any(pair is not None and pair[0] == RTMR2 for pair in (extended(e, tpm=True) for e in entries))


def wait_for(machine: Machine, timeout: float = 120) -> list[LogEntry]:
    """Wait for the firmware's complete log, which exists once the kernel has started; ``HostError`` on timeout."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        machine.check_running()
        time.sleep(1)
        entries = read(machine.memory)
        if complete(entries):
            return entries
    raise HostError(f"no complete boot log in the guest's memory within {timeout:g} s\n{machine.console_tail()}")
