"""Listing of a directory tree: every path with type, mode and digest, and a fast check by stat data.

The listing is made when the tree is unpacked from locked packages. Later checks read no file unless an inode has
changed; then everything is read again and the differences are named. This detects accidents and misbehaving programs,
not an attacker with write access to the store, who can also change the listing.
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
    """One line per entry, sorted by path: ``ASCII-PATH KIND MODE SHA256``, separated by tabs."""

    lines: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The tree's digest."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def differences(self, now: Listing) -> list[str]:
        """The entries that are missing, new or changed, each with its path."""
        was = dict(line.split("\t", 1) for line in self.lines)
        found = dict(line.split("\t", 1) for line in now.lines)
        changes = []
        for path in sorted(was.keys() | found.keys()):
            if path not in found:
                changes.append(f"{path} is missing")
            elif path not in was:
                changes.append(f"{path} is new")
            elif was[path] != found[path]:
                changes.append(f"{path} changed")
        return changes


def read(root: Path) -> Listing:
    """List everything below ``root``."""

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


def look(root: Path, *, but: str | None = None) -> str:
    """A digest of the inode data below ``root``; it changes whenever anything below was touched.

    ``but``: leave out the folders of this name, and the times of all folders, which move with them.
    """
    hasher = hashlib.sha256()
    for path, status in sorted(_walk(root)):
        if but is not None and (but in path.split("/") or stat.S_ISDIR(status.st_mode)):
            continue
        # Includes the change time, which programs cannot set back, unlike the modification time.
        facts = (status.st_mode, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        hasher.update(f"{_name(path)}\t{facts}\n".encode())
    return hasher.hexdigest()


def save(listing: Listing, path: Path) -> None:
    """Store a listing, preceded by its digest so that damage is detected."""
    write_atomic(path, "\n".join((listing.digest, *listing.lines, "")).encode())


def saved(path: Path) -> Listing | None:
    """A stored listing; None when it is missing or damaged."""
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
    # Escape any bytes of a name so that it fits one line and stays unique.
    return ascii(path)[1:-1].replace("\\t", "\\x09")
