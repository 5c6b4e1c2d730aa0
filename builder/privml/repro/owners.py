"""Find the package that ships a path of the guest, from the locked .debs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import PurePosixPath

from privml.base.errors import InputsError
from privml.lock import deb
from privml.store.objects import Store

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Owners:
    """Map of paths to packages, read on first use: it is needed only for differences."""

    def __init__(self, packages: Iterable[tuple[str, str]] = (), store: Store | None = None) -> None:
        self._packages = tuple(packages)
        self._store = store

    @cached_property
    def _of(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for name, digest in self._packages:
            if self._store is None or not self._store.has(digest):
                continue
            try:
                with deb.tar_of(self._store.read(digest, verify=False), "data.tar", name) as archive:
                    for entry in archive:
                        if not entry.isdir():
                            found.setdefault(merged(entry.name), name)
            except InputsError:
                continue
        return found

    def package(self, path: str) -> str:
        """The package name; ``overlay`` for the guest's own files, ``unknown`` if no package ships the path."""
        path = merged(path)
        if path.startswith(("usr/lib/privml/", "etc/privml/")):
            return "overlay"
        return self._of.get(source_of(path), "unknown")


def merged(name: str) -> str:
    """The path in a tree with merged /usr, without a leading slash or dot."""
    path = name.removeprefix(".").lstrip("/")
    first = path.partition("/")[0]
    return f"usr/{path}" if first in _MERGED and "/" in path else path


def source_of(path: str) -> str:
    """The Python module of a compiled file; any other path as it is."""
    compiled = PurePosixPath(path)
    if compiled.suffix == ".pyc" and compiled.parent.name == "__pycache__":
        return str(compiled.parent.parent / f"{compiled.name.split('.')[0]}.py")
    return path
