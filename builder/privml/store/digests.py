"""Cache of file digests, keyed by inode data, so that unchanged files are not read again.

It tells a build whether the files it wrote are unchanged. It must not be used to verify an image or to state digests
in a document: bit rot and writes below the file system change no inode, and anyone with write access to the store can
change the cache too.
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

# An inode's times have a limited resolution (milliseconds on common file systems, two seconds on FAT). A file written
# within one tick of being read could change again in the same tick without a new time, so it is not cached.
MARGIN = 3.0
_LINE = re.compile(r"(\d+) (\d+) (\d+) ([0-9a-f]{64})\n")


class Digests:
    """One small file per inode, ``DEVICE-INODE``, with the line ``SIZE MTIME CTIME SHA256`` (times in nanoseconds).

    Entries are replaced atomically, so any number of processes may read and write; malformed entries are ignored.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def sha256(self, path: Path) -> str:
        """SHA-256 of the file in hex; the file is read only if its inode data changed since the last read."""
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
    # Includes the change time, which programs cannot set back, unlike the modification time.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(place: Path) -> tuple[int, int, int, str] | None:
    try:
        found = _LINE.fullmatch(place.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return (int(found[1]), int(found[2]), int(found[3]), found[4]) if found else None
