"""Read a vendor's runfile without running it: a shell script, and behind it a compressed tar file (Makeself).

The script's first lines are assignments. ``skip`` is the number of the line at which the tar file begins; between
the script and that line there may be a program that unpacks it. ``targetdir`` is the folder that it unpacks to.
Nothing of the script is executed, and everything that is read has a bound.

Source: NVIDIA's makeself.sh 1.6.0-nv, which is part of the runfiles.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from privml.base.errors import InputsError

MAX_TAR = 8 << 30
"""The largest tar file that is unpacked; that of a driver has 2 GiB."""
MAX_FILE = 512 << 20
MAX_ENTRIES = 20_000
_MAX_HEADER = 4 << 20
_MAX_NAME = 400
_FIRST = re.compile(rb"#! ?/bin/sh\n")
_LINE = re.compile(rb'([A-Za-z_][A-Za-z0-9_]*)=("?)([ -~]*)\2')


@dataclass(frozen=True)
class Compression:
    """How a tar file is compressed: its first bytes, the end of its file name, and the program that unpacks it."""

    magic: bytes
    suffix: str
    program: tuple[str, ...]


COMPRESSIONS = (
    Compression(b"\x28\xb5\x2f\xfd", ".zst", ("zstd", "--decompress", "--quiet", "--rm")),
    Compression(b"\xfd7zXZ\x00", ".xz", ("xz", "--decompress", "--quiet")),
)


@dataclass(frozen=True)
class Header:
    """What a runfile says of itself; its tar file begins at the byte ``start``."""

    name: str
    version: str
    start: int
    compression: Compression


def header(file: BinaryIO, what: str) -> Header:
    """Read the header of a runfile; ``InputsError`` if it is none."""
    data = file.read(_MAX_HEADER + 1)
    if not (first := _FIRST.match(data)):
        raise InputsError(f"driver-runfile: {what} does not begin with `#!/bin/sh`, as a runfile does")
    said = _said(data, first.end())
    missing = [name for name in ("skip", "targetdir", "version_string") if name not in said]
    if missing or not re.fullmatch(r"[1-9][0-9]{0,5}", said.get("skip", "")):
        found = ", ".join(missing) or f"skip={said['skip']}"
        raise InputsError(
            f"driver-runfile: {what}: got {found}, expected lines with skip, targetdir and version_string"
        )
    start = 0
    for _ in range(int(said["skip"]) - 1):
        start = data.find(b"\n", start) + 1
        if start == 0 or start > _MAX_HEADER:
            raise InputsError(
                f"driver-runfile: {what}: line {said['skip']}, where its tar file should begin, is not within the "
                f"first {_MAX_HEADER >> 20} MiB"
            )
    compression = next((each for each in COMPRESSIONS if data.startswith(each.magic, start)), None)
    if compression is None:
        raise InputsError(
            f"driver-runfile: {what}: got {data[start : start + 6].hex() or 'nothing'} at byte {start}, expected a "
            "tar file compressed by zstd or xz"
        )
    return Header(said["targetdir"], said["version_string"], start, compression)


def _said(data: bytes, start: int) -> dict[str, str]:
    """The assignments that follow the first line; one that is there twice is refused like one that is missing."""
    found: dict[str, str] = {}
    twice = set()
    while (end := data.find(b"\n", start)) >= 0 and (line := _LINE.fullmatch(data, start, end)):
        name, value = line[1].decode(), line[3].decode()
        if name in found:
            twice.add(name)
        found[name] = value
        start = end + 1
    return {name: value for name, value in found.items() if name not in twice}


def copy_payload(file: BinaryIO, start: int, target: Path) -> None:
    """Copy the compressed tar file of a runfile, which begins at ``start``, to the new file ``target``."""
    file.seek(start)
    with target.open("xb") as out:
        shutil.copyfileobj(file, out, 1 << 20)


@contextmanager
def opened(file: BinaryIO, what: str) -> Iterator[tarfile.TarFile]:
    """Open the tar file of a runfile; errors in it, also later ones, are ``InputsError``."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        raise InputsError(f"driver-runfile: {what}: its tar file cannot be read: {error}") from error


def entries(archive: tarfile.TarFile, what: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Every entry with its plain path; ``InputsError`` for paths that leave the folder, or are there twice."""
    seen: set[str] = set()
    for number, entry in enumerate(archive):
        if number >= MAX_ENTRIES:
            raise InputsError(f"driver-runfile: {what}: has more than {MAX_ENTRIES} entries")
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts or len(entry.name) > _MAX_NAME or "\0" in entry.name:
            raise InputsError(f"driver-runfile: {what}: the path `{entry.name[:_MAX_NAME]}` leaves its folder")
        if (name := str(path)) in seen:
            raise InputsError(f"driver-runfile: {what}: `{name}` is there twice")
        seen.add(name)
        yield name, entry


def read(archive: tarfile.TarFile, wanted: Collection[str], what: str) -> dict[str, bytes]:
    """The content of the regular files ``wanted``; ``InputsError`` if one is missing or is none."""
    found = {}
    for name, entry in entries(archive, what):
        if name in wanted:
            found[name] = _file(archive, entry, what).read()
    if missing := sorted(set(wanted) - found.keys()):
        raise InputsError(f"driver-runfile: {what}: has no file {', '.join(missing)}")
    return found


def unpack(archive: tarfile.TarFile, folder: str, target: Path, what: str) -> None:
    """Unpack ``folder`` to the new directory ``target``: its files and directories, and nothing else."""
    any_file = False
    for name, entry in entries(archive, what):
        path = PurePosixPath(name)
        if not path.is_relative_to(folder):
            continue
        place = target / path.relative_to(folder)
        if place == target and not entry.isdir():
            raise InputsError(f"driver-runfile: {what}: {folder} is not a folder")
        if entry.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        source = _file(archive, entry, what)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputsError(f"driver-runfile: {what}: `{name}` is both a file and a folder") from error
        place.chmod(0o755 if entry.mode & 0o100 else 0o644)
        any_file = True
    if not any_file:
        raise InputsError(f"driver-runfile: {what}: has no folder {folder} with files")


def _file(archive: tarfile.TarFile, entry: tarfile.TarInfo, what: str) -> IO[bytes]:
    source = archive.extractfile(entry) if entry.isreg() and entry.size <= MAX_FILE else None
    if source is None:
        raise InputsError(
            f"driver-runfile: {what}: {entry.name} is not a regular file of at most {MAX_FILE >> 20} MiB"
        )
    return source
