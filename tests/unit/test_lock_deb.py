"""Unpacking .debs: files stay inside the tree, whatever the paths and links of a package."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

from privml.base.errors import InputsError
from privml.lock import deb

Entry = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, 1_700_000_000
    return entry, data


def folder(name: str, mode: int = 0o755) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry, b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, body in members:
        out += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o100644, len(body))
        out += body + b"\n" * (len(body) & 1)
    return out


def tar(entries: Iterable[Entry], compression: str) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode=f"w:{compression}") as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    return body.getvalue()


def package(entries: Iterable[Entry], compression: str = "xz", control: str | None = None) -> bytes:
    suffix = f".{compression}" if compression else ""
    first = b"odd" if control is None else tar([file("./control", control.encode())], compression)
    members = (f"control.tar{suffix}", first), (f"data.tar{suffix}", tar(entries, compression))
    return ar(("debian-binary", b"2.0\n"), *members)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def unpack(root: Path, *entries: Entry) -> None:
    deb.unpack(package(entries), root, "thing 1")


def refused(root: Path, *entries: Entry) -> str:
    with pytest.raises(InputsError) as caught:
        unpack(root, *entries)
    assert caught.value.message.startswith("thing 1: ")
    return caught.value.message


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_files_directories_and_links_are_unpacked(root: Path, compression: str) -> None:
    entries = [
        folder("./"),
        folder("./usr"),
        file("./usr/tool", b"#!", 0o755),
        link("./usr/soft", "tool"),
        link("./usr/hard", "./usr/tool", tarfile.LNKTYPE),
    ]
    deb.unpack(package(entries, compression), root, "thing 1")
    assert (root / "usr/tool").read_bytes() == b"#!"
    assert (root / "usr/tool").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/tool").stat().st_mtime == 1_700_000_000
    assert (root / "usr/soft").readlink() == Path("tool")
    assert (root / "usr/hard").samefile(root / "usr/tool")


def test_set_id_bits_are_dropped(root: Path) -> None:
    unpack(
        root, file("su", mode=0o4755), file("wall", mode=0o2755), folder("mail", mode=0o2775), folder("tmp", 0o1777)
    )
    modes = {path.name: path.stat().st_mode & 0o7777 for path in root.iterdir()}
    assert modes == {"su": 0o755, "wall": 0o755, "mail": 0o775, "tmp": 0o1777}


def test_directories_stay_writable_for_the_unpacking_user(root: Path) -> None:
    unpack(root, folder("locked", mode=0o500), file("locked/a"))
    assert (root / "locked").stat().st_mode & 0o7777 == 0o700


def test_a_later_package_replaces_files_but_not_shared_links(root: Path) -> None:
    unpack(root, file("a", b"old"), link("b", "a", tarfile.LNKTYPE))
    unpack(root, file("a", b"new"))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"new", b"old")


def test_merged_usr_links_are_kept_and_followed(root: Path) -> None:
    unpack(root, folder("usr/lib"), link("lib", "usr/lib"), link("abs", "/usr/lib"))
    unpack(root, folder("lib", 0o700), file("lib/one"), folder("abs"), folder("abs/deep"), file("abs/deep/two"))
    assert (root / "lib").is_symlink()
    assert (root / "abs").is_symlink()
    assert sorted(p.relative_to(root / "usr/lib").as_posix() for p in (root / "usr/lib").rglob("*")) == [
        "deep",
        "deep/two",
        "one",
    ]
    assert (root / "usr/lib").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "usr/../../up", "./../up"])
def test_paths_outside_the_root_are_refused(root: Path, name: str) -> None:
    assert "leaves the tree" in refused(root, file(name))
    assert sorted(root.parent.iterdir()) == [root]


@pytest.mark.parametrize("name", ["/outside/target", "../outside/target"])
def test_hard_links_outside_the_root_are_refused(root: Path, name: str) -> None:
    assert "leaves the tree" in refused(root, link("mine", name, tarfile.LNKTYPE))
    assert not (root / "mine").exists()


def outside(root: Path) -> Path:
    place = root.parent / "outside"
    place.mkdir(mode=0o750)
    (place / "secret").write_text("untouched")
    return place


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_writing_through_a_link_stays_inside(root: Path, form: str) -> None:
    place = outside(root)
    target = str(place) if form == "absolute" else "../outside"
    unpack(root, link("way", target), file("way/secret", b"bad"), file("way/new", b"bad"))
    assert {path.name: path.read_text() for path in place.iterdir()} == {"secret": "untouched"}
    inside = root / (str(place).lstrip("/") if form == "absolute" else "outside")
    assert (inside / "new").read_bytes() == b"bad"


def test_a_directory_entry_over_an_outside_link_changes_nothing_outside(root: Path) -> None:
    place = outside(root)
    unpack(root, link("way", str(place)), folder("way", mode=0o777))
    assert place.stat().st_mode & 0o777 == 0o750
    assert (root / str(place).lstrip("/")).is_dir()


def test_a_file_entry_over_an_outside_link_replaces_the_link(root: Path) -> None:
    place = outside(root)
    unpack(root, link("way", str(place / "secret")), file("way", b"mine"))
    assert (place / "secret").read_text() == "untouched"
    assert not (root / "way").is_symlink()


def test_a_hard_link_to_an_outside_link_stays_inside(root: Path) -> None:
    place = outside(root)
    unpack(root, link("way", str(place / "secret")), link("hard", "way", tarfile.LNKTYPE), file("hard", b"mine"))
    assert (place / "secret").read_text() == "untouched"
    assert (place / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(root: Path, kind: bytes) -> None:
    assert "device" in refused(root, link("null", "", kind))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([folder("a"), file("a")], "would replace a directory"),
        ([file("a"), folder("a")], "conflicts with an existing path"),
        ([file("a"), file("a/b")], "conflicts with an existing path"),
        ([link("hard", "nowhere", tarfile.LNKTYPE)], "conflicts with an existing path"),
        ([link("a", "b"), link("b", "a"), file("a/c")], "too many links"),
    ],
)
def test_conflicting_entries_are_refused(root: Path, entries: list[Entry], words: str) -> None:
    assert words in refused(root, *entries)


def test_resolving_never_leaves_the_root(root: Path) -> None:
    (root / "up").symlink_to("../../../..")
    (root / "deep").symlink_to("/up/a")
    assert deb.inside(root, PurePosixPath("up/etc"), "x") == root / "etc"
    assert deb.inside(root, PurePosixPath("deep/../../b"), "x") == root / "b"


GOOD = package([file("a", random.Random(1).randbytes(3000))])


@pytest.mark.parametrize("cut", [0, 7, 8, 30, 67, 70, 140, len(GOOD) - 1500, len(GOOD) - 2])
def test_a_truncated_package_is_refused(root: Path, cut: int) -> None:
    with pytest.raises(InputsError, match=r"^thing: "):
        deb.unpack(GOOD[:cut], root, "thing")


def test_a_damaged_archive_is_refused(root: Path) -> None:
    with pytest.raises(InputsError, match=r"^thing: "):
        deb.unpack(GOOD[:-200] + bytes(200), root, "thing")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\3\4", "no ar magic"),
        (ar(("debian-binary", b"2.0\n")), r"has no data\.tar"),
        (ar(("data.tar.xz", b"not xz")), "cannot be read"),
        (ar(("data.tar", b"ab")).replace(b"2         `", b"-2        `"), "broken ar header"),
        (ar(("data.tar", b"ab")).replace(b"2         `", b"1_0       `"), "broken ar header"),
        (ar(("data.tar", b"ab")).replace(b"2         `", b"9999999999`"), "is truncated"),
        (ar(("data.tar", b"ab")).replace(b"`\n", b"xx"), "broken ar header"),
        (ar(("data.tar", b"ab")).replace(b"data", b"d\xe4ta"), "broken ar header"),
    ],
)
def test_a_file_that_is_not_a_package_is_refused(root: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputsError, match=words):
        deb.unpack(data, root, "thing")


def test_the_control_file_of_a_package() -> None:
    assert deb.control(package([], control="Package: a\nDepends: b\n"), "a") == "Package: a\nDepends: b"
    with pytest.raises(InputsError, match=r"^a: control\.tar\.xz cannot be read"):
        deb.control(package([]), "a")
    empty = ar(("debian-binary", b"2.0\n"), ("control.tar", tar([file("./md5sums")], "")))
    with pytest.raises(InputsError, match=r"^a: its control archive has no file `control`"):
        deb.control(empty, "a")
