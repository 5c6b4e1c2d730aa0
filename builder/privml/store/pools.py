"""Pools: directories or web addresses with files named by SHA-256, tried before any mirror.

A pool's layout is ``sha256/ab/cdef...``, as in the store's ``objects`` directory. That directory is itself a pool,
also when published by a static web server. Files from a pool are always checked by digest.
"""

from __future__ import annotations

import shutil
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import InputsError, UsageError
from privml.base.files import fsync_directory, sha256_file
from privml.base.steps import progress
from privml.store.objects import DIGEST, Store
from privml.store.room import STORE_HINT, writing


@dataclass(frozen=True)
class Pool:
    """A pool: a directory, or an http(s) address without a final slash."""

    place: Path | str

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Parse the value of ``--pool``; ``UsageError`` if the directory does not exist."""
        if urllib.parse.urlsplit(text).scheme in ("http", "https"):
            return cls(text.rstrip("/"))
        folder = Path(text).absolute()
        if not folder.is_dir():
            raise UsageError(f"--pool: `{text}` is neither a directory nor an http(s) address")
        return cls(folder)

    def file(self, digest: str) -> Path | None:
        """Path of the object in this directory; None for an address."""
        return self.place / relative(digest) if isinstance(self.place, Path) else None

    def url(self, digest: str) -> str | None:
        """URL of the object at this address; None for a directory."""
        return f"{self.place}/{relative(digest)}" if isinstance(self.place, str) else None


def relative(digest: str) -> str:
    """An object's path inside a pool."""
    return f"sha256/{digest[:2]}/{digest[2:]}"


def objects_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """The digests in a pool directory, sorted; files with other names are ignored."""
    for file in sorted((folder / "sha256").glob("[0-9a-f][0-9a-f]/*")):
        digest = file.parent.name + file.name
        if DIGEST.match(digest) and file.is_file():
            yield digest, file


def export(store: Store, digests: Iterable[str], folder: Path) -> tuple[int, int]:
    """Copy objects into a pool directory, checking each; returns their number and size."""
    copied = size = 0
    for digest in sorted(set(digests)):
        target = folder / relative(digest)
        if target.is_file() and sha256_file(target) == digest:
            continue
        source = store.path(digest, verify=True)
        with writing(
            folder, "the pool", "free some space there, or export to another directory; existing files are kept"
        ):
            _copy(source, target)
        copied, size = copied + 1, size + source.stat().st_size
        progress(f"exported {copied} objects, {size / (1 << 20):.1f} MiB")
    return copied, size


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, temporary)
        temporary.chmod(0o444)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(target.parent)


def take_in(store: Store, folder: Path) -> tuple[int, int]:
    """Copy the objects of a pool directory into the store, checking each; returns number and size of new ones.

    ``InputsError`` names the files whose content does not match their name; all others are imported.
    """
    new = size = 0
    wrong = []
    for digest, file in objects_in(folder):
        if store.has(digest):
            continue
        try:
            with writing(store.root, "the store", STORE_HINT):
                store.add_file(file, expect=digest)
        except InputsError as error:
            wrong.append(error.message)
            continue
        new, size = new + 1, size + file.stat().st_size
        progress(f"imported {new} objects, {size / (1 << 20):.1f} MiB")
    if wrong:
        raise InputsError("\n".join(wrong), hint=f"{new} other objects were imported; get the named ones elsewhere")
    return new, size
