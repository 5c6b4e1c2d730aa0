"""Open anything that can be read as a file: regular files, ``-``, pipes, and the kernel's own files.

A file of sysfs or procfs reports a size that is not that of its content, and cannot be mapped; a pipe has none. What
can be mapped is, because a disk image may be larger than memory.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privml.base.errors import MeasurementError, UsageError, printable
from privml.measure.digest import Bytes

STANDARD_INPUT = Path("-")
_MAX_STREAM = 1 << 30
_CHUNK = 1 << 20
_BINARY = getattr(os, "O_BINARY", 0)  # systems with a text mode need it


def is_readable(path: Path) -> bool:
    """True for what `opened` takes: ``-``, or a path that is there and is neither a directory nor a device that
    produces bytes without end."""
    try:
        mode = path.stat().st_mode if path != STANDARD_INPUT else stat.S_IFIFO
    except OSError:
        return False
    return not (stat.S_ISDIR(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode))


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The content of ``path``; ``UsageError`` when it is not a file, ``MeasurementError`` when it is empty."""
    if not is_readable(path):
        raise UsageError(f"`{path}` {_instead(path)}")
    if path == STANDARD_INPUT:
        yield _nonempty(_all(sys.stdin.fileno(), path), path)
        return
    try:
        file = os.open(path, os.O_RDONLY | _BINARY)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {printable(error.strerror or str(error))}") from error
    try:
        view = _mapped(file)
        if view is None:
            yield _nonempty(_all(file, path), path)
            return
        with view:
            yield view
    finally:
        os.close(file)


def _instead(path: Path) -> str:
    """Why `opened` does not take ``path``."""
    if path.is_dir():
        return "is a directory, expected a file"
    return "is a device or socket, expected a file" if path.exists() else "does not exist"


def _mapped(file: int) -> mmap.mmap | None:
    """The file in memory; None when it has no size or cannot be mapped."""
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        os.lseek(file, 0, os.SEEK_SET)
        return mmap.mmap(file, size, access=mmap.ACCESS_READ) if size else None
    except (OSError, ValueError):
        return None


def _all(file: int, path: Path) -> bytes:
    pieces, size = [], 0
    try:
        while piece := os.read(file, _CHUNK):
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_STREAM:
                raise MeasurementError(
                    f"{path}: more than {_MAX_STREAM >> 30} GiB, and not a file that can be mapped"
                )
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {printable(error.strerror or str(error))}") from error
    return b"".join(pieces)


def _nonempty(data: bytes, path: Path) -> bytes:
    if not data:
        raise MeasurementError(f"{path} is empty")
    return data
