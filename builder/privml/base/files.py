"""Atomic file and directory creation (temporary name, fsync, rename), and file digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_start(path: Path, limit: int) -> bytes:
    """The content of ``path``, or its first ``limit`` + 1 bytes, which a reader with that limit refuses."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def fsync_directory(path: Path) -> None:
    """Sync the directory ``path``, so that its entries are durable; nothing on a system that cannot open one."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` atomically: a reader sees the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


@contextlib.contextmanager
def directory_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty directory next to ``path``; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / "was")
        try:
            temporary.rename(path)
        except BaseException:
            if old is not None:
                (old / "was").rename(path)
                old.rmdir()
            raise
        fsync_directory(path.parent)
        if old is not None:
            remove_tree(old)
    except BaseException:
        remove_tree(temporary)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if that is not possible; neither name may be written afterwards."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # A different file system, one without links, or another user's file. A missing source fails here again.
        shutil.copyfile(source, target)


def remove_tree(path: Path) -> None:
    """Remove a tree that may contain read-only directories."""

    def writable_then(function: object, name: str, _: BaseException | object) -> None:
        parent = Path(name).parent
        with contextlib.suppress(OSError):
            parent.chmod(0o700)
            Path(name).chmod(0o700)
        with contextlib.suppress(OSError):
            if callable(function):
                function(name)

    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=writable_then)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive advisory lock on ``path`` (created empty), waiting for other holders."""
    import fcntl  # not on every system, and only the store and builds lock files

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
