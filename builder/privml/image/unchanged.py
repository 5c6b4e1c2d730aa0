"""Recall that an image was found unchanged, if nothing that was read to find this has changed since.

Finding an image unchanged takes half a second, mostly for loading the code that reads recipe and lock. So a full
check that finds it unchanged notes every file and folder that it read or missed, with what the file system says of
each, and a later one compares these first. An audit hook of Python reports what is read: a list of an image's inputs
could go stale.

A note answers one question, as `store.digests` does: are these still the files that this machine has read? It must
not be used to verify an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.files import write_atomic
from privml.image import content
from privml.store.digests import MARGIN
from privml.store.objects import Store

FOLDER = "unchanged"
_PACKAGE = Path(__file__).resolve().parents[1]
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Unchanged:
    """The folder of an image that is as it was noted, the names of its steps, and what the full check said."""

    directory: Path
    steps: tuple[str, ...]
    said: tuple[str, ...]


@dataclass
class Watch:
    """What this process reads since ``started`` (seconds); ``package`` digests its own code's inodes at that time."""

    started: float = field(default_factory=time.time)
    package: str = field(default_factory=lambda: _look())
    read: set[Path] = field(default_factory=set)


class Question:
    """One way to ask for an image: the recipe as given, the output folder and the lock, from the current folder."""

    def __init__(self, store: Store, target: str, output: Path | None, lock_file: Path | None) -> None:
        self._digests = store.root / "digests"
        asked = (sys.version, str(Path.cwd()), str(store.root), target, *map(str, (output, lock_file)))
        self._note = store.root / FOLDER / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()}.json"

    def recall(self) -> Unchanged | None:
        """The image, if all is as it was noted; None if anything differs, or nothing is noted."""
        # A note that cannot be read is none.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            noted = json.loads(self._note.read_bytes())
            same = all(_facts(Path(path)) == facts for path, facts in noted["read"].items())
            if same and noted["read"] and noted["package"] == _look():
                return Unchanged(
                    Path(noted["directory"]), tuple(map(str, noted["steps"])), tuple(map(str, noted["said"]))
                )
        return None

    def note(self, watch: Watch, found: Unchanged) -> None:
        """Note that a full check, all of it under ``watch``, found the image unchanged.

        Nothing is noted if a file is younger than the check by less than the resolution of an inode's times: it could
        change again and look the same.
        """
        # A store that cannot be written makes this slower, not wrong.
        with contextlib.suppress(OSError):
            read = {str(path): _facts(path) for path in sorted(self._compared(watch.read))}
            youngest = max(max(facts[-2:]) for facts in read.values() if facts is not None)
            if youngest < (watch.started - MARGIN) * 1e9:
                record = {
                    "directory": str(found.directory),
                    "package": watch.package,
                    "read": read,
                    "steps": found.steps,
                    "said": found.said,
                }
                write_atomic(self._note, json.dumps(record).encode())

    def _compared(self, read: set[Path]) -> set[Path]:
        """The paths in ``read``, their folders and the current one: a folder's times move with the names in it.

        privml-build's own package is looked at as a whole.
        """
        covered = {self._digests, _PACKAGE}
        own = {path for path in read if path.suffix != ".pyc" and covered.isdisjoint((path, *path.parents))}
        return own | {path.parent for path in own} | {Path.cwd()}


def _look() -> str:
    """A digest of the inodes of privml-build's own package, without what Python compiles there."""
    return content.look(_PACKAGE, but="__pycache__")


_watch: Watch | None = None
_hooked = False


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Collect the absolute path of every file that this process opens for reading, and of every folder it lists."""
    global _watch, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # it cannot be removed
        _hooked = True
    _watch = Watch()
    try:
        yield _watch
    finally:
        _watch = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watch is None or event not in ("open", "os.listdir", "os.scandir"):
        return
    path = "." if arguments[0] is None else arguments[0]
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
    if not writes and isinstance(path, str | bytes | os.PathLike):
        _watch.read.add(Path.cwd() / os.fsdecode(path))


def _facts(path: Path) -> list[int] | None:
    """What the file system says of ``path``; None if it is not there."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Includes the change time, which programs cannot set back, unlike the modification time.
    return [*(getattr(status, f"st_{name}") for name in ("dev", "ino", "mode", "size", "mtime_ns", "ctime_ns"))]
