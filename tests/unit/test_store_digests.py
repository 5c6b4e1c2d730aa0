"""A cached digest is never that of other bytes, and an unchanged file is read once."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from privml.store import digests
from privml.store.digests import MARGIN, Digests

LATER = MARGIN + 60


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each file that was read, once for each read."""
    seen: list[str] = []
    plain = hashlib.file_digest

    def counted(file: object, name: str) -> object:
        seen.append(name)
        return plain(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(digests.hashlib, "file_digest", counted)
    return seen


@pytest.fixture
def known(tmp_path: Path) -> Digests:
    """A cache whose clock is late enough for a test's files to count as old."""
    return Digests(tmp_path / "digests", now=lambda: time.time() + LATER)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


def test_an_untouched_file_is_read_once(known: Digests, file: Path, reads: list[str]) -> None:
    assert [known.sha256(file) for _ in range(3)] == [sha(b"one")] * 3
    assert len(reads) == 1


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, file: Path, reads: list[str]) -> None:
    """Within one tick of the clock a file can change twice with the same time."""
    for lead in (0.0, MARGIN - 1):
        racy = Digests(tmp_path / "digests", now=lambda lead=lead: file.stat().st_ctime + lead)
        assert racy.sha256(file) == sha(b"one")
    assert not (tmp_path / "digests").exists()
    assert len(reads) == 2


def test_a_file_with_a_future_time_is_not_remembered(known: Digests, tmp_path: Path, file: Path) -> None:
    os.utime(file, (time.time() + 2 * LATER,) * 2)
    known.sha256(file)
    assert not (tmp_path / "digests").exists()


def test_changed_bytes_of_the_same_size_and_time_are_noticed(known: Digests, file: Path) -> None:
    known.sha256(file)
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert known.sha256(file) == sha(b"two")


def test_a_replaced_file_is_noticed(known: Digests, file: Path, tmp_path: Path) -> None:
    known.sha256(file)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert known.sha256(file) == sha(b"two")


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    known: Digests, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = hashlib.file_digest

    def disturbed(source: object, name: str) -> object:
        found = plain(source, name)  # type: ignore[arg-type]
        file.write_bytes(b"two")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(digests.hashlib, "file_digest", disturbed)
        known.sha256(file)
    assert known.sha256(file) == sha(b"two")


@pytest.mark.parametrize(
    "text", [b"", b"3 1 1", b"\xff\xfe", b"3 1 1 " + b"0" * 63 + b"\n", b"3 -1 1 " + b"0" * 64 + b"\n", b"x" * 4096]
)
def test_a_malformed_entry_is_ignored(
    known: Digests, file: Path, tmp_path: Path, reads: list[str], text: bytes
) -> None:
    known.sha256(file)
    [entry] = (tmp_path / "digests").iterdir()
    entry.write_bytes(text)
    assert [known.sha256(file), known.sha256(file)] == [sha(b"one")] * 2
    assert len(reads) == 2


def test_an_unwritable_cache_only_costs_time(tmp_path: Path, file: Path, reads: list[str]) -> None:
    (tmp_path / "digests").write_bytes(b"not a folder")
    blocked = Digests(tmp_path / "digests", now=lambda: time.time() + LATER)
    assert [blocked.sha256(file), blocked.sha256(file)] == [sha(b"one")] * 2
    assert len(reads) == 2


def test_readers_and_a_writer_at_once_never_see_a_digest_of_other_bytes(tmp_path: Path) -> None:
    """The writer replaces the whole file, so a reader gets the digest of one state or the next."""
    bodies = [bytes([number]) * 1000 for number in range(12)]
    path = tmp_path / "file"
    path.write_bytes(bodies[0])
    state = 0
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        mine = Digests(tmp_path / "digests", now=lambda: time.time() + LATER)
        while not done.is_set():
            first = state
            found = mine.sha256(path)
            # The name may be replaced a moment before the writer says so.
            if found not in {sha(body) for body in bodies[first : state + 2]}:
                wrong.append(found)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number, body in enumerate(bodies[1:], 1):
        (tmp_path / "new").write_bytes(body)
        (tmp_path / "new").replace(path)
        state = number
        time.sleep(0.002)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert Digests(tmp_path / "digests").sha256(path) == sha(bodies[-1])
