"""The content-addressed store: every object is a complete file named by its SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from privml.base.errors import HostError, InputsError
from privml.base.files import CHUNK, fsync_directory, locked, sha256_file
from privml.base.home import user_folder
from privml.store.derived import Derived
from privml.store.digests import Digests

DIGEST = re.compile(r"\A[0-9a-f]{64}\Z")


def default_root() -> Path:
    """``$PRIVML_STORE``, else ``privml-build/store`` in the user's XDG cache."""
    explicit = os.environ.get("PRIVML_STORE")
    if explicit:
        return Path(explicit).absolute()
    return user_folder("XDG_CACHE_HOME", ".cache") / "privml-build" / "store"


class Store:
    """Objects in ``root/objects/sha256/ab/cdef...``; temporary files and locks are in separate directories."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self._objects = self.root / "objects" / "sha256"

    @property
    def seen(self) -> Digests:
        """Cached digests of files outside the store."""
        return Digests(self.root / "digests")

    @property
    def derived(self) -> Derived:
        """Cache of files derived from inputs."""
        return Derived(self.root / "derived")

    @property
    def drivers(self) -> Derived:
        """Cache of compiled drivers, apart because each takes minutes to make."""
        return Derived(self.root / "drivers")

    def _place(self, digest: str) -> Path:
        if not DIGEST.match(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 in lower-case hex")
        return self._objects / digest[:2] / digest[2:]

    def has(self, digest: str) -> bool:
        """True if the object exists."""
        return self._place(digest).is_file()

    def path(self, digest: str, *, verify: bool = False) -> Path:
        """The object's read-only file; ``InputsError`` if it is missing or (with ``verify``) damaged."""
        place = self._place(digest)
        if not place.is_file():
            raise InputsError(
                f"sha256:{digest} is not in the store", hint="`privml-build lock` fetches the files of a lock"
            )
        if verify:
            found = sha256_file(place)
            if found != digest:
                # Remove a damaged object, so that the next fetch repairs the store.
                place.unlink(missing_ok=True)
                raise InputsError(
                    f"the store's object sha256:{digest} is damaged: got {found}; it was removed",
                    hint="run the same command again to fetch it",
                )
        return place

    def open(self, digest: str, *, verify: bool = False) -> BinaryIO:
        """Open the object for reading."""
        return self.path(digest, verify=verify).open("rb")

    def read(self, digest: str, *, verify: bool = True) -> bytes:
        """The object's bytes."""
        return self.path(digest, verify=verify).read_bytes()

    def add_bytes(self, data: bytes, *, expect: str | None = None) -> str:
        """Store ``data`` and return its SHA-256; ``InputsError`` if it is not ``expect``."""
        digest = hashlib.sha256(data).hexdigest()
        _agree(digest, expect, "the given bytes")
        if not self.has(digest):
            temporary = self.temporary()
            temporary.write_bytes(data)
            self.adopt(temporary, digest)
        return digest

    def add_file(self, path: Path, *, expect: str | None = None) -> str:
        """Store a copy of the file; returns the SHA-256 of the copied bytes."""
        temporary = self.temporary()
        hasher = hashlib.sha256()
        try:
            with path.open("rb") as source, temporary.open("wb") as target:
                while block := source.read(CHUNK):
                    hasher.update(block)
                    target.write(block)
            digest = hasher.hexdigest()
            _agree(digest, expect, str(path))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.adopt(temporary, digest)
        return digest

    def temporary(self) -> Path:
        """A new empty file on the store's filesystem, for ``adopt``."""
        folder = self._folder("temp")
        handle, name = tempfile.mkstemp(prefix="new.", dir=folder)
        os.close(handle)
        return Path(name)

    def partial(self, digest: str) -> Path:
        """Path of the partial download of ``digest``, which is resumed after an interruption."""
        self._place(digest)
        return self._folder("temp") / f"{digest}.part"

    def adopt(self, temporary: Path, digest: str) -> Path:
        """Give a finished temporary file its final name. The caller has checked that its SHA-256 is ``digest``."""
        place = self._place(digest)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o444)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(place)
        fsync_directory(place.parent)
        return place

    def locked(self, digest: str) -> AbstractContextManager[None]:
        """Hold the lock of one key, so that two processes do not fetch the same object at once."""
        self._place(digest)
        return locked(self._folder("locks") / digest[:2])

    def digests(self) -> Iterator[str]:
        """Every object's SHA-256, sorted."""
        for folder in sorted(self._objects.glob("[0-9a-f][0-9a-f]")):
            for place in sorted(folder.iterdir()):
                yield folder.name + place.name

    def size(self) -> tuple[int, int]:
        """Number of objects and their total size in bytes."""
        sizes = [self._place(digest).stat().st_size for digest in self.digests()]
        return len(sizes), sum(sizes)

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"the store {self.root} cannot be written: {error.strerror}",
                hint="set PRIVML_STORE to a writable directory",
            ) from error
        return folder


def _agree(digest: str, expect: str | None, what: str) -> None:
    if expect is not None and digest != expect:
        raise InputsError(f"{what}: sha256 got {digest}, expected {expect}")
