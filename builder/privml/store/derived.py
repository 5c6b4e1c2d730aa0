"""Cache of files that are expensive to derive from inputs, keyed by everything they depend on.

Nothing here is an input: missing or damaged files are derived again. The digest next to a file detects accidents, not
an attacker with write access to the store, who can change both.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from privml.base.files import link_or_copy, sha256_file, write_atomic

# The tree of a package set has some hundred megabytes: keep enough for the recipes in use, not for their history.
KEPT = 3


class Derived:
    """Files ``KEY`` with their SHA-256 in ``KEY.sha256``; at most ``KEPT``, the least recently used is removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, key: str) -> bool:
        """True if ``key`` exists; ``take`` checks that it is intact."""
        return (self._folder / key).is_file() and self._record(key).is_file()

    def take(self, key: str, target: Path) -> bool:
        """Link or copy the file to the new read-only name ``target``; False if it is missing or damaged."""
        place = self._folder / key
        try:
            expected = self._record(key).read_text(encoding="ascii")
            link_or_copy(place, target)
        except (OSError, ValueError):
            return False
        # Another build may remove the name now; the linked file stays.
        if sha256_file(target) != expected:
            target.unlink()
            self._drop(key)
            return False
        with contextlib.suppress(OSError):
            for path in (place, self._record(key)):
                os.utime(path)
        return True

    def keep(self, key: str, file: Path) -> None:
        """Link or copy ``file`` to ``key``; skipped if the store is full or not writable."""
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
