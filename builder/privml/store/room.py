"""Places that cannot be written: no room, read-only, not ours. That is this machine's fault; the place is named."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from privml.base.errors import HostError

# What the operating system says when a place is the trouble, and not what was to be written there.
ABOUT_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
STORE_HINT = "make room (`privml-build store gc --dry-run` shows what no lock names), or set PRIVML_STORE elsewhere"


@contextlib.contextmanager
def writing(place: Path, what: str, hint: str) -> Iterator[None]:
    """Tell an ``OSError`` about the place as ``HostError`` with the place's name; any other goes on as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in ABOUT_THE_PLACE:
            raise
        raise cannot_write(place, what, hint, error) from error


def cannot_write(place: Path, what: str, hint: str, error: OSError) -> HostError:
    """The error that says so."""
    return HostError(f"{what} {place} cannot be written: {(error.strerror or str(error)).lower()}", hint=hint)
