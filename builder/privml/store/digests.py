"""Digests of files, remembered by what their inodes say, so that bytes which nobody touched are not read again.

This answers a builder's question, asked at every run: are these still the files that I wrote? It is not for a caller
who asks whether an image is what was promised, nor for the digests that a document states: a disk that loses bits and
a tool that writes below the file system change no inode, and who may write in the store can write here too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from privml.base.files import write_atomic

# An inode's times move in ticks (milliseconds on common file systems, two seconds on FAT). A file that was written
# within a tick of being read may be written again in the same tick, and no time would tell: it is not remembered.
MARGIN = 3.0
_LINE = re.compile(r"(\d+) (\d+) (\d+) ([0-9a-f]{64})\n")


class Digests:
    """One small file an inode, ``DEVICE-INODE``, with the line ``SIZE MTIME CTIME SHA256`` (times in nanoseconds).

    Entries are replaced whole, so any number of processes may read and write; one that is not such a line is none.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def sha256(self, path: Path) -> str:
        """SHA-256 of the file in hex; read only when its inode says something else than when it was last read."""
        started = self._now()
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            place = self._folder / f"{before.st_dev:x}-{before.st_ino:x}"
            known = _read(place)
            if known is not None and known[:3] == _facts(before):
                return known[3]
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        youngest = max(before.st_mtime, before.st_ctime)
        if _facts(after) == _facts(before) and youngest < started - MARGIN:
            # A store that cannot be written makes this slower, not wrong.
            with contextlib.suppress(OSError):
                write_atomic(place, "{} {} {} {}\n".format(*_facts(before), digest).encode())
        return digest


def _facts(status: os.stat_result) -> tuple[int, int, int]:
    # The change time too: a program can set a modification time back, but not that one.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(place: Path) -> tuple[int, int, int, str] | None:
    try:
        found = _LINE.fullmatch(place.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return (int(found[1]), int(found[2]), int(found[3]), found[4]) if found else None
