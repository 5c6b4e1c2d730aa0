"""Read a vendor's tar file strictly: plain paths, each once, regular files only, and a bound on everything.

The caller's ``what`` begins each message: the rule's name, and the file that the tar file is in.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from privml.base.errors import InputsError

MAX_FILE = 512 << 20
MAX_ENTRIES = 20_000
_MAX_NAME = 400


@contextmanager
def opened(file: BinaryIO, what: str) -> Iterator[tarfile.TarFile]:
    """Open an unpacked tar file; errors in it, also later ones, are ``InputsError``."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        raise InputsError(f"{what}: its tar file cannot be read: {error}") from error


def entries(archive: tarfile.TarFile, what: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Every entry with its plain path; ``InputsError`` for paths that leave the folder, or are there twice."""
    seen: set[str] = set()
    for number, entry in enumerate(archive):
        if number >= MAX_ENTRIES:
            raise InputsError(f"{what}: has more than {MAX_ENTRIES} entries")
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts or len(entry.name) > _MAX_NAME or "\0" in entry.name:
            raise InputsError(f"{what}: the path `{entry.name[:_MAX_NAME]}` leaves its folder")
        if (name := str(path)) in seen:
            raise InputsError(f"{what}: `{name}` is there twice")
        seen.add(name)
        yield name, entry


def read(archive: tarfile.TarFile, wanted: Collection[str], what: str) -> dict[str, bytes]:
    """The content of the regular files ``wanted``; ``InputsError`` if one is missing or is none."""
    found = {}
    for name, entry in entries(archive, what):
        if name in wanted:
            found[name] = _file(archive, entry, what).read()
    if missing := sorted(set(wanted) - found.keys()):
        raise InputsError(f"{what}: has no file {', '.join(missing)}")
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
            raise InputsError(f"{what}: {folder} is not a folder")
        if entry.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        source = _file(archive, entry, what)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputsError(f"{what}: `{name}` is both a file and a folder") from error
        place.chmod(0o755 if entry.mode & 0o100 else 0o644)
        any_file = True
    if not any_file:
        raise InputsError(f"{what}: has no folder {folder} with files")


def _file(archive: tarfile.TarFile, entry: tarfile.TarInfo, what: str) -> IO[bytes]:
    source = archive.extractfile(entry) if entry.isreg() and entry.size <= MAX_FILE else None
    if source is None:
        raise InputsError(f"{what}: {entry.name} is not a regular file of at most {MAX_FILE >> 20} MiB")
    return source
