"""The reader of a vendor's runfile: where the tar file begins, and what of it is taken. Nothing is executed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import runfile_file as r
from test_lock_deb import Entry, file, folder, link

from privml.base.errors import InputsError
from privml.lock import runfile, vendortar

WHAT = "driver-runfile: x.run"


def head(data: bytes) -> runfile.Header:
    return runfile.header(io.BytesIO(data), "x.run")


def test_the_header_says_name_version_and_where_the_tar_file_begins() -> None:
    script = r.script()
    found = head(r.made())
    assert (found.name, found.version, found.start) == (r.NAME, r.VERSION, len(script))
    assert found.compression.suffix == ".xz"
    assert head(script + b"\x28\xb5\x2f\xfd....").compression.program[0] == "zstd"
    assert head(r.made(head=script.replace(b"#! /bin/sh", b"#!/bin/sh", 1))).start == len(script) - 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not begin with"),
        (b"<html>404</html>", "does not begin with"),
        (b"#!/bin/bash\n" + r.script()[11:], "does not begin with"),
        (r.script(targetdir=None) + b"\xfd7zXZ\0", "got targetdir, expected lines with"),
        (r.script(version_string=None, skip=5), "got version_string, expected"),
        (r.script() + b"not a tar", "at byte .* expected a tar file compressed by zstd or xz"),
        (r.script(), "got nothing at byte"),
        (r.script(skip=3) + b"\xfd7zXZ\0", "expected a tar file compressed"),
        (r.script(skip=999_999) + b"\xfd7zXZ\0", "line 999999, where its tar file should begin, is not within"),
        (r.script(skip=0) + b"\xfd7zXZ\0", "got skip=0"),
        (r.script().replace(b"\nskip=", b"\nskip=-") + b"\xfd7zXZ\0", "got skip=-"),
        (r.script().replace(b"\nskip=", b"\nskip=1\nskip=") + b"\xfd7zXZ\0", "got skip, expected"),
        (r.script().replace(b"MD5=", b"targetdir=/\nMD5="), "got targetdir, expected"),
        (r.script().replace(b"CRCsum", b"echo x\nCRCsum"), "got skip, targetdir, version_string, expected"),
    ],
)
def test_what_is_no_runfile_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(InputsError, match=rf"^driver-runfile: x\.run.*{said}"):
        head(data)


def test_the_payload_is_what_follows_the_header(tmp_path: Path) -> None:
    data = r.made()
    runfile.copy_payload(io.BytesIO(data), head(data).start, tmp_path / "payload")
    assert (tmp_path / "payload").read_bytes() == data[len(r.script()) :]


def read(rows: list[Entry], *wanted: str) -> dict[str, bytes]:
    with vendortar.opened(r.packed(rows), WHAT) as archive:
        return vendortar.read(archive, wanted, WHAT)


def test_files_are_read_by_their_names() -> None:
    found = read(r.entries({"libcuda.so.595.71.05": b"cuda"}), "libcuda.so.595.71.05", "nvidia-smi")
    assert found == {"libcuda.so.595.71.05": b"cuda", "nvidia-smi": b"content of nvidia-smi"}


def test_the_source_is_unpacked_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "driver"
    with vendortar.opened(r.packed(r.entries()), WHAT) as archive:
        vendortar.unpack(archive, "kernel-open", target, WHAT)
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == r.SOURCE
    modes = {path.name: path.stat().st_mode & 0o777 for path in target.iterdir() if path.is_file()}
    assert modes == {"Makefile": 0o644, "conftest.sh": 0o755}


def device(name: str) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.CHRTYPE
    return entry, b""


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([file("../x")], r"the path `\.\./x` leaves its folder"),
        ([file("/etc/x")], "the path `/etc/x` leaves its folder"),
        ([file("a/../../x")], "leaves its folder"),
        ([file("a" * 401)], "leaves its folder"),
        ([file("./a"), file("a")], "`a` is there twice"),
        ([link("./a", "/etc/passwd")], "a is not a regular file"),
        ([file("b"), link("a", "b", tarfile.LNKTYPE)], "a is not a regular file"),
        ([device("a")], "a is not a regular file"),
        ([folder("a")], "a is not a regular file"),
        ([file("b")], "has no file a"),
        ([], "has no file a"),
    ],
)
def test_each_fault_of_the_tar_file_is_refused(rows: list[Entry], said: str) -> None:
    with pytest.raises(InputsError, match=rf"^driver-runfile: x\.run.*{said}"):
        read(rows, "a")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([file("other/x")], "has no folder kernel-open with files"),
        ([folder("kernel-open")], "has no folder kernel-open with files"),
        ([link("kernel-open/x", "/etc/passwd")], "kernel-open/x is not a regular file"),
        ([link("kernel-open", "/")], "kernel-open is not a folder"),
        ([file("kernel-open")], "kernel-open is not a folder"),
        ([device("kernel-open/x")], "kernel-open/x is not a regular file"),
        ([file("kernel-open/x"), file("kernel-open/x/y")], "is both a file and a folder"),
        ([file("kernel-open/x/y"), file("kernel-open/x")], "is both a file and a folder"),
        ([file("kernel-open/x"), file("../x")], "leaves its folder"),
    ],
)
def test_each_fault_of_the_source_is_refused(tmp_path: Path, rows: list[Entry], said: str) -> None:
    with pytest.raises(InputsError, match=said), vendortar.opened(r.packed(rows), WHAT) as archive:
        vendortar.unpack(archive, "kernel-open", tmp_path / "driver", WHAT)
    assert [each.name for each in tmp_path.iterdir()] in (["driver"], [])


def test_counts_and_sizes_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendortar, "MAX_ENTRIES", 2)
    with pytest.raises(InputsError, match="has more than 2 entries"):
        read([file("a"), file("b"), file("c")], "a")
    monkeypatch.setattr(vendortar, "MAX_FILE", 3)
    with pytest.raises(InputsError, match="a is not a regular file of at most"):
        read([file("a", b"1234")], "a")
