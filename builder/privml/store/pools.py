"""Pools: directories, web addresses or registries with files named by SHA-256, tried before any mirror.

A pool's own layout is ``sha256/ab/cdef...``, as in the store's ``objects`` directory. That directory is itself a
pool, also when published by a static web server. The other layouts are those of OCI, whose blobs are
named by SHA-256 too: an image layout in a directory, and a repository of a registry. Files from a pool are always
checked by digest; a pool's own lists and names are never read.
"""

from __future__ import annotations

import shutil
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from privml.base.errors import InputsError, UsageError
from privml.base.files import fsync_directory, sha256_file
from privml.base.steps import progress
from privml.store import registry
from privml.store.objects import DIGEST, Store
from privml.store.room import STORE_HINT, writing


def _is_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def relative(digest: str) -> str:
    """An object's path inside a pool of the own layout."""
    return f"sha256/{digest[:2]}/{digest[2:]}"


@dataclass(frozen=True)
class Layout:
    """How a kind of pool names its objects: ``path`` below the pool, by digest. A registry may ask for ``tokens``."""

    path: Callable[[str], str]
    tokens: bool = False


OWN = Layout(relative)
OCI_FILE = "oci-layout"
"""The file that marks an OCI image layout."""
OCI_LAYOUT = Layout(lambda digest: f"blobs/sha256/{digest}")
OCI_REGISTRY = Layout(lambda digest: f"blobs/sha256:{digest}", tokens=True)


@dataclass(frozen=True)
class Pool:
    """A pool: a directory, or an http(s) address without a final slash; and how it names its objects."""

    place: Path | str
    layout: Layout = OWN

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Parse the value of ``--pool``; ``UsageError`` if the directory does not exist."""
        scheme = text.partition("://")[0].lower()
        if scheme in ("http", "https") and _is_address(text):
            return cls(text.rstrip("/"))
        if scheme == registry.SCHEME:
            return cls(registry.address(text), OCI_REGISTRY)
        folder = Path(text).absolute()
        if not folder.is_dir():
            raise UsageError(f"--pool: `{text}` is neither a directory nor an address (http, https or oci)")
        return cls(folder, OCI_LAYOUT if (folder / OCI_FILE).is_file() else OWN)

    def file(self, digest: str) -> Path | None:
        """Path of the object in this directory; None for an address."""
        return self.place / self.layout.path(digest) if isinstance(self.place, Path) else None

    def url(self, digest: str) -> str | None:
        """URL of the object at this address; None for a directory."""
        return f"{self.place}/{self.layout.path(digest)}" if isinstance(self.place, str) else None


def objects_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """The digests in a pool directory, sorted; files with other names are ignored."""
    for file in sorted((folder / "sha256").glob("[0-9a-f][0-9a-f]/*")):
        digest = file.parent.name + file.name
        if DIGEST.match(digest) and file.is_file():
            yield digest, file


def export(store: Store, digests: Iterable[str], folder: Path) -> tuple[int, int]:
    """Copy objects into a pool directory, checking each; returns their number and size."""
    return fill(folder, ((digest, partial(store.path, digest, verify=True)) for digest in sorted(set(digests))))


def fill(folder: Path, objects: Iterable[tuple[str, Callable[[], Path]]]) -> tuple[int, int]:
    """Copy files into a pool directory; returns the number and size of those that were not there.

    Each is a digest, and what gives the path of a file that has it, checked; only called for what is missing.
    """
    copied = size = 0
    for digest, file in objects:
        target = folder / relative(digest)
        if target.is_file() and sha256_file(target) == digest:
            continue
        source = file()
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
