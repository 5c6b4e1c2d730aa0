"""What a tree holds: a digest over every path with its type, mode and bytes, and a quick look by stat data.

The list is made when the tree is unpacked from locked packages. Later looks read no file as long as no inode tells of
a change; else everything is read again, and what differs is named. This is against accidents and stray programs, not
against somebody who may write in the store: such a one can write the list too.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from privml.base.files import sha256_file, write_atomic


@dataclass(frozen=True)
class Listing:
    """One line an entry, sorted by path: ``ASCII-PATH KIND MODE SHA256`` with tabs between."""

    lines: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The tree's digest."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def differences(self, now: Listing) -> list[str]:
        """The entries that are missing, new or changed, each with its path."""
        was = dict(line.split("\t", 1) for line in self.lines)
        found = dict(line.split("\t", 1) for line in now.lines)
        told = []
        for path in sorted(was.keys() | found.keys()):
            if path not in found:
                told.append(f"{path} is missing")
            elif path not in was:
                told.append(f"{path} was not there")
            elif was[path] != found[path]:
                told.append(f"{path} changed")
        return told


def read(root: Path) -> Listing:
    """Read everything below ``root``."""

    def line(entry: tuple[str, os.stat_result]) -> str:
        path, status = entry
        place = root / path
        if stat.S_ISLNK(status.st_mode):
            kind, digest = "link", hashlib.sha256(os.fsencode(place.readlink())).hexdigest()
        elif stat.S_ISREG(status.st_mode):
            kind, digest = "file", sha256_file(place)
        elif stat.S_ISDIR(status.st_mode):
            kind, digest = "directory", "-"
        else:
            kind, digest = f"type-{stat.S_IFMT(status.st_mode):o}", "-"
        return "\t".join((_name(path), kind, f"{stat.S_IMODE(status.st_mode):04o}", digest))

    with ThreadPoolExecutor(2) as pool:
        return Listing(tuple(sorted(pool.map(line, _walk(root), chunksize=64))))


def look(root: Path) -> str:
    """A digest of what the inodes below ``root`` say; it moves whenever anything below was touched."""
    hasher = hashlib.sha256()
    for path, status in sorted(_walk(root)):
        # The change time too: a program can set a modification time back, but not that one.
        facts = (status.st_mode, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        hasher.update(f"{_name(path)}\t{facts}\n".encode())
    return hasher.hexdigest()


def save(listing: Listing, path: Path) -> None:
    """Keep a listing; the digest comes first, so a damaged record is noticed."""
    write_atomic(path, "\n".join((listing.digest, *listing.lines, "")).encode())


def saved(path: Path) -> Listing | None:
    """A kept listing; None when there is none that is whole."""
    try:
        digest, *lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    listing = Listing(tuple(lines))
    return listing if listing.digest == digest else None


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)


def _name(path: str) -> str:
    # Whatever bytes a name has: one line, and different names stay different.
    return ascii(path)[1:-1].replace("\\t", "\\x09")
