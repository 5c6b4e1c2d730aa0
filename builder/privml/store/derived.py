"""What was derived from inputs at some cost, kept under a key of everything that it was derived from.

Nothing here is an input: all of it can be made again, and is when it is gone or is not what was kept. The digest
beside a file is against accidents; who may write in the store can write both.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from privml.base.files import link_or_copy, sha256_file, write_atomic

# A package set's tree is some hundred megabytes: enough for the recipes that one works on, not for their history.
KEPT = 3


class Derived:
    """Files ``KEY`` with their SHA-256 in ``KEY.sha256``; at most ``KEPT``, and the least recently used one goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, key: str) -> bool:
        """True when something is kept under ``key``; whether it is whole, ``take`` looks."""
        return (self._folder / key).is_file() and self._record(key).is_file()

    def take(self, key: str, target: Path) -> bool:
        """Lay the file at the new name ``target``, to be read only; False when there is none that is whole."""
        place = self._folder / key
        try:
            expected = self._record(key).read_text(encoding="ascii")
            link_or_copy(place, target)
        except (OSError, ValueError):
            return False
        # Another build may drop the name now; what was linked stays.
        if sha256_file(target) != expected:
            target.unlink()
            self._drop(key)
            return False
        with contextlib.suppress(OSError):
            for path in (place, self._record(key)):
                os.utime(path)
        return True

    def keep(self, key: str, file: Path) -> None:
        """Keep a second name or a copy of ``file`` under ``key``; a store that is full or closed keeps nothing."""
        place = self._folder / key
        fresh = place.with_name(f"{key}.{os.getpid()}.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._record(key).unlink(missing_ok=True)
            link_or_copy(file, fresh)
            fresh.replace(place)
            os.utime(place)
            write_atomic(self._record(key), sha256_file(file).encode())
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            self._drop(key)
        self._shrink()

    def _record(self, key: str) -> Path:
        return self._folder / f"{key}.sha256"

    def _drop(self, key: str) -> None:
        for path in (self._record(key), self._folder / key):
            with contextlib.suppress(OSError):
                path.unlink()

    def _shrink(self) -> None:
        ages = {}
        for record in self._folder.glob("*.sha256"):
            with contextlib.suppress(OSError):
                ages[record.stem] = (self._folder / record.stem).stat().st_mtime_ns
        for key in sorted(ages, key=ages.__getitem__, reverse=True)[KEPT:]:
            self._drop(key)
