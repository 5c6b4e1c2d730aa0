"""Remove everything that no lock names: objects, then unpacked trees and leftovers of killed commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from privml.base.files import remove_tree
from privml.store.objects import Store

# A running command's temporary files are younger than this; nothing downloads for a day without writing.
STALE = 24 * 3600.0
_TREE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Swept:
    """What was removed, or with ``dry_run`` would be."""

    objects: tuple[str, ...]
    trees: tuple[str, ...]
    temporary: tuple[str, ...]
    bytes: int


def sweep(store: Store, keep: Set[str], trees: Set[str], *, dry_run: bool, now: float | None = None) -> Swept:
    """Remove every object that is not in ``keep``, every tree whose key is not in ``trees``, and old leftovers.

    Trees locked by another command are kept. With ``dry_run`` nothing is removed.
    """
    objects = [digest for digest in store.digests() if digest not in keep]
    size = sum(store.path(digest).stat().st_size for digest in objects)
    if not dry_run:
        for digest in objects:
            store.path(digest).unlink(missing_ok=True)
    dropped = []
    for path in sorted((store.root / "trees").glob("*")):
        if path.is_dir() and _TREE.fullmatch(path.name) and path.name not in trees:
            with _held(path.with_name(f"{path.name}.lock")) as ours:
                if ours:
                    dropped.append(path.name)
                    size += _size(path)
                    if not dry_run:
                        for suffix in (".seen", ".content"):
                            path.with_name(path.name + suffix).unlink(missing_ok=True)
                        remove_tree(path)
    old = []
    # Cached and derived files are created again on demand; using one updates its age.
    folders = ("temp", "digests", "derived", "drivers", "unchanged")
    for path in [path for name in folders for path in sorted((store.root / name).glob("*"))]:
        if path.is_file() and path.stat().st_mtime < (time.time() if now is None else now) - STALE:
            old.append(path.name)
            size += path.stat().st_size
            if not dry_run:
                path.unlink(missing_ok=True)
    return Swept(tuple(objects), tuple(dropped), tuple(old), size)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Try to take the lock without waiting; yields whether it is held."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _size(tree: Path) -> int:
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(tree) for name in names)
