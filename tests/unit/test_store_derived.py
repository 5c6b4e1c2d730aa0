"""The cache of derived files: entries are returned complete or not at all, and its size is bounded."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from privml.base import files
from privml.store.derived import KEPT, Derived

KEY = "a" * 64


@pytest.fixture
def derived(tmp_path: Path) -> Derived:
    return Derived(tmp_path / "derived")


def made(folder: Path, body: bytes, name: str = "made") -> Path:
    path = folder / name
    path.write_bytes(body)
    return path


def test_a_kept_file_is_returned(derived: Derived, tmp_path: Path) -> None:
    assert not derived.has(KEY)
    derived.keep(KEY, made(tmp_path, b"one"))
    assert derived.has(KEY)
    assert derived.take(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"one"
    (tmp_path / "made").unlink()
    assert derived.take(KEY, tmp_path / "again")


def test_another_key_returns_nothing(derived: Derived, tmp_path: Path) -> None:
    derived.keep(KEY, made(tmp_path, b"one"))
    assert not derived.take("b" * 64, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("harm", ["bytes", "cut", "gone", "no record", "broken record"])
def test_a_changed_file_is_not_returned(derived: Derived, tmp_path: Path, harm: str) -> None:
    derived.keep(KEY, made(tmp_path, b"one"))
    (tmp_path / "made").unlink()
    place, record = tmp_path / "derived" / KEY, tmp_path / "derived" / f"{KEY}.sha256"
    match harm:
        case "bytes":
            place.write_bytes(b"two")
        case "cut":
            place.write_bytes(b"on")
        case "gone":
            place.unlink()
        case "no record":
            record.unlink()
        case _:
            record.write_bytes(b"\xff")
    assert not derived.take(KEY, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    derived.keep(KEY, made(tmp_path, b"three"))
    assert derived.take(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"three"


def test_the_least_recently_used_entry_is_evicted(derived: Derived, tmp_path: Path) -> None:
    keys = [f"{number}" * 64 for number in range(KEPT)]
    for age, key in enumerate(keys):
        derived.keep(key, made(tmp_path, key.encode(), key))
        os.utime(tmp_path / "derived" / key, (1000 + age,) * 2)
    assert derived.take(keys[0], tmp_path / "back")  # used now: no longer the oldest
    derived.keep(KEY, made(tmp_path, b"one"))
    assert [key for key in (*keys, KEY) if derived.has(key)] == [keys[0], *keys[2:], KEY]
    assert len(list((tmp_path / "derived").iterdir())) == 2 * KEPT


def test_a_file_that_cannot_be_linked_is_copied(
    derived: Derived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "link", refused)
    derived.keep(KEY, made(tmp_path, b"one"))
    assert derived.take(KEY, tmp_path / "back")
    assert {path.stat().st_nlink for path in (tmp_path / "back", tmp_path / "derived" / KEY)} == {1}
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "none", tmp_path / "target")


def test_an_unwritable_store_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "derived").write_bytes(b"not a folder")
    closed = Derived(tmp_path / "derived")
    closed.keep(KEY, made(tmp_path, b"one"))
    assert not closed.has(KEY)
    assert not closed.take(KEY, tmp_path / "back")


def test_concurrent_keeps_and_takes_are_safe(tmp_path: Path) -> None:
    """Whole trees of two builds under one key differ in their times; each taker gets one of them, or none."""
    wrong = []

    def work(number: int) -> None:
        mine = Derived(tmp_path / "derived")
        body = bytes([number]) * 5000
        for turn in range(6):
            mine.keep(KEY, made(tmp_path, body, f"made-{number}-{turn}"))
            target = tmp_path / f"back-{number}-{turn}"
            if mine.take(KEY, target) and len(set(target.read_bytes())) != 1:
                wrong.append(target)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    last = Derived(tmp_path / "derived")
    last.keep(KEY, made(tmp_path, b"end"))
    assert last.take(KEY, tmp_path / "end")
