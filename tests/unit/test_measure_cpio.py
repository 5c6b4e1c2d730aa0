"""The initrd's archive is byte-stable and round-trips."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import MeasurementError
from privml.measure.cpio import Entry, Member, archive, entries

NAMES = st.text("abcXYZ019._-é", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(PATHS, st.tuples(st.binary(max_size=40), st.booleans()), max_size=8)


def parse(data: bytes) -> list[tuple[str, int, int, int, bytes]]:
    """(name, inode, mode, mtime, bytes) of each member, read as the kernel does."""
    found, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        inode, mode, uid, gid, links, mtime, size, *rest, length, check = (
            int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)
        )
        assert (uid, gid, check, *rest) == (0,) * 7
        name = data[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        at += -(-(110 + length) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not data[at:].strip(b"\0")
            return found
        assert links == (2 if stat.S_ISDIR(mode) else 1)
        found.append((name[:-1].decode(), inode, mode, mtime, data[at : at + size]))
        at += -(-size // 4) * 4


def test_the_bytes_of_an_archive_are_pinned() -> None:
    made = archive({"bin/sh": Member(b"#!x", executable=True)}, mtime=1)
    zero = b"00000000"

    def head(*fields: int) -> bytes:
        return b"070701" + b"".join(b"%08X" % field for field in fields)

    expected = (
        head(1, 0o40755, 0, 0, 2, 1, 0, 0, 0, 0, 0, 4, 0) + b"bin\0" + b"\0\0"
        + head(2, 0o100755, 0, 0, 1, 1, 3, 0, 0, 0, 0, 7, 0).lower() + b"bin/sh\0" + b"\0" * 3 + b"#!x\0"
        + b"070701" + zero * 4 + b"00000001" + zero * 6 + b"0000000b" + zero + b"TRAILER!!!\0" + b"\0" * 3
    )  # fmt: skip
    assert made.startswith(expected.replace(b"000041ED", b"000041ed"))
    assert len(made) == 512
    assert not made[len(expected) :].strip(b"\0")


@given(FILES)
def test_an_archive_round_trips(files: dict[str, tuple[bytes, bool]]) -> None:
    members = {path: Member(data, executable) for path, (data, executable) in files.items()}
    clash = any(f"{path}/" in other + "/" and other.startswith(f"{path}/") for path in files for other in files)
    if clash:
        with pytest.raises(ValueError, match="which is a file"):
            archive(members, mtime=7)
        return
    found = parse(archive(members, mtime=7))
    names = [name for name, *_ in found]
    assert names == sorted(names)
    assert [inode for _, inode, *_ in found] == list(range(1, len(found) + 1))
    assert {mtime for *_, mtime, _ in found} <= {7}
    folders = {"/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1)}
    assert set(names) == set(files) | folders
    for name, _, mode, _, data in found:
        if name in folders:
            assert (mode, data) == (stat.S_IFDIR | 0o755, b"")
        else:
            assert (mode, data) == (stat.S_IFREG | (0o755 if files[name][1] else 0o644), files[name][0])


@given(st.permutations(["a", "b/c", "b/d", "e/f/g"]))
def test_members_are_sorted(order: list[str]) -> None:
    made = archive({path: Member(path.encode()) for path in order}, mtime=0)
    assert made == archive({path: Member(path.encode()) for path in sorted(order)}, mtime=0)


@pytest.mark.parametrize("path", ["/a", "", "a//b", "./a", "a/../b", "a/", ".."])
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        archive({path: Member(b"")}, mtime=0)


def test_empty_directories_are_members() -> None:
    assert [entry[:3] for entry in parse(archive({"dev": Member(None)}, mtime=0))] == [("dev", 1, 0o40755)]


@given(FILES)
def test_the_reader_and_the_writer_agree(files: dict[str, tuple[bytes, bool]]) -> None:
    members = {f"{number}/{path}": Member(*member) for number, (path, member) in enumerate(files.items())}
    made = archive(members, mtime=7)
    found = list(entries(made))
    assert [(one.name, one.inode, one.mode, one.mtime, one.data) for one in found] == parse(made)
    assert {one.name: one.data for one in found if not stat.S_ISDIR(one.mode)} == {
        path: member.data for path, member in members.items()
    }


def test_every_field_of_an_entry_round_trips() -> None:
    made = Entry("dev/null", 9, stat.S_IFCHR | 0o666, b"x", links=3, uid=4, gid=5, mtime=6, device=(1, 3))
    end = Entry("TRAILER!!!", 0, 0).encoded()
    assert list(entries(made.encoded() + end)) == [made]
    assert list(entries(made.encoded() + end + b"another archive")) == [made]


ONE = Entry("name", 1, stat.S_IFREG, b"data").encoded()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cpio header"),
        (b"\x1f\x8b" + bytes(200), "no newc header at byte 0"),
        (ONE + bytes(200), f"no newc header at byte {len(ONE)}"),
        (ONE, "cpio header"),
        (ONE[:60], "cpio header"),
        (ONE[:6] + b"0000000g" + ONE[14:], "no newc header at byte 0"),
        (ONE[:6] + b"+0000001" + ONE[14:], "no newc header at byte 0"),
        (ONE[:-4], "cpio member name"),
        (ONE[:94] + b"00000000" + ONE[102:], "has no end"),
        (ONE[:94] + b"00000004" + ONE[102:], "has no end"),
        (ONE[:94] + b"ffffffff" + ONE[102:], "cpio member's name"),
    ],
)
def test_a_truncated_or_malformed_archive_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        list(entries(data))
