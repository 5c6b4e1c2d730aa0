"""Finding the firmware's log in a guest's memory."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from privml.events import types
from privml.events.tcg import ALG_SHA256, ALG_SHA384, LogEntry, encode_log
from privml.vm import bootlog

SIZES = {ALG_SHA256: 32, ALG_SHA384: 48}


def entry(pcr: int, kind: int, data: bytes) -> LogEntry:
    digests = {ALG_SHA256: hashlib.sha256(data).digest(), ALG_SHA384: hashlib.sha384(data).digest()}
    return LogEntry(pcr, kind, digests, data)


# PCR 1 is RTMR0, PCR 4 RTMR1, PCR 9 RTMR2 (UEFI 2.10 section 38.4.1).
LOG = [
    entry(0, types.EV_SEPARATOR, bytes(4)),
    entry(1, types.EV_EFI_HANDOFF_TABLES2, b"tables"),
    entry(4, types.EV_EFI_BOOT_SERVICES_APPLICATION, b"uki.efi"),
    entry(9, types.EV_EVENT_TAG, b"initrd"),
    entry(5, types.EV_EFI_ACTION, b"Exit Boot Services Invocation"),
    entry(5, types.EV_EFI_ACTION, bootlog.LAST),
]
BYTES = encode_log(LOG, SIZES)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def best(memory: bytes, tmp_path: Path) -> list[LogEntry]:
    path = tmp_path / "ram"
    path.write_bytes(memory)
    return bootlog.read(path)


@pytest.mark.parametrize("after", [bytes(5000), b"\xff" * 5000, noise(5000), b"", b"\xff", b"\x00", noise(3)])
def test_a_log_is_found_among_other_bytes(tmp_path: Path, after: bytes) -> None:
    for before in (b"", bytes(4096), noise(4096), b"\xff" * 33):
        assert best(before + BYTES + after, tmp_path) == LOG


def record(item: LogEntry) -> bytes:
    sizes = {algorithm: len(digest) for algorithm, digest in item.digests.items()}
    return encode_log([item], sizes)[len(encode_log([], sizes)) :]


@pytest.mark.parametrize(
    "more",
    [
        LogEntry(4, types.EV_IPL, {ALG_SHA384: bytes(48)}, b"of another log"),
        entry(24, types.EV_IPL, b"of no PCR"),
        entry(4, 0, b"of no type"),
    ],
)
def test_bytes_that_resemble_a_record_are_not_part_of_the_log(tmp_path: Path, more: LogEntry) -> None:
    assert best(BYTES + record(more) + noise(99), tmp_path) == LOG


def test_the_longer_of_two_copies_is_used(tmp_path: Path) -> None:
    short = encode_log(LOG[:3], SIZES) + b"\xff" * 100
    assert best(noise(100) + short + noise(50) + BYTES + noise(50), tmp_path) == LOG
    assert best(noise(100) + BYTES + noise(50) + short + noise(50), tmp_path) == LOG
    assert len(list(bootlog.candidates(short + BYTES))) == 2


def test_adjacent_copies_are_two_logs(tmp_path: Path) -> None:
    assert best(BYTES + BYTES, tmp_path) == LOG


def test_a_truncated_log_keeps_its_whole_records(tmp_path: Path) -> None:
    ends = [len(encode_log(LOG[:count], SIZES)) for count in range(len(LOG) + 1)]
    for size in range(ends[0], len(BYTES), 7):
        whole = max(count for count, end in enumerate(ends) if end <= size)
        assert best(noise(64) + BYTES[:size], tmp_path) == LOG[:whole]


def test_an_overwritten_log_ends_before_the_damage(tmp_path: Path) -> None:
    at = len(encode_log(LOG[:4], SIZES))
    assert best(BYTES[:at] + bytes(64) + BYTES[at + 64 :], tmp_path) == LOG[:4]


@pytest.mark.parametrize(
    "memory",
    [
        bytes(9000),
        noise(9000),
        b"Spec ID Event03\0" * 40,
        BYTES[: bootlog._HEADER],
        BYTES[:40] + bytes(99),
        BYTES[1:],
    ],
)
def test_memory_without_a_log_gives_none(tmp_path: Path, memory: bytes) -> None:
    assert best(memory, tmp_path) == []


def test_a_log_without_events_is_ignored(tmp_path: Path) -> None:
    assert best(encode_log([], SIZES) + b"\xff" * 99, tmp_path) == []


def test_a_log_with_sha_384_alone_is_found(tmp_path: Path) -> None:
    only = [LogEntry(item.index, item.type, {ALG_SHA384: item.sha384}, item.data) for item in LOG]
    assert best(noise(77) + encode_log(only) + noise(77), tmp_path) == only


def test_a_signature_at_the_start_of_memory_is_not_a_log() -> None:
    assert list(bootlog.candidates(b"Spec ID Event03\0" + bytes(99))) == []


def test_a_log_is_complete_when_it_reaches_the_kernel() -> None:
    assert bootlog.complete(LOG)
    assert not bootlog.complete([])
    assert not bootlog.complete(LOG[:-1])
    assert not bootlog.complete([item for item in LOG if item.index != 9])
    wrong = entry(5, types.EV_IPL, bootlog.LAST)
    assert not bootlog.complete([*LOG[:-1], wrong])


def test_only_written_parts_of_a_large_memory_are_searched(tmp_path: Path) -> None:
    """A guest's memory is a sparse file; reading its holes would take minutes and fill the page cache."""
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(64 << 30)
        for place in (3 << 30, (40 << 30) + 4000):
            file.seek(place)
            file.write(BYTES if place > 32 << 30 else noise(9000))
    with path.open("rb") as file:
        ranges = list(bootlog.used_ranges(file.fileno()))
    assert sum(end - start for start, end in ranges) < 1 << 20
    assert bootlog.read(path) == LOG
    with path.open("wb") as file:
        file.truncate(64 << 30)
    assert bootlog.read(path) == []
