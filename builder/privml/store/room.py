"""Report unwritable places (full, read-only, no permission) as host errors that name the place."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from privml.base.errors import HostError
from privml.base.home import advice

# Error numbers caused by the place, not by the data to be written.
ABOUT_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
STORE_HINT = (
    "free some space (`privml-build store gc --dry-run` lists files that no lock needs), or set PRIVML_STORE to "
    "another disk"
)


@contextlib.contextmanager
def writing(place: Path, what: str, hint: str) -> Iterator[None]:
    """Convert an ``OSError`` about the place to a ``HostError`` that names it; others are re-raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in ABOUT_THE_PLACE:
            raise
        raise cannot_write(place, what, hint, error) from error


def cannot_write(place: Path, what: str, hint: str, error: OSError) -> HostError:
    """The ``HostError`` for an unwritable place; its hint names the owner if that is another user."""
    if isinstance(error, PermissionError):
        hint = advice(Path(error.filename or place)) or hint
    return HostError(f"{what} {place} cannot be written: {(error.strerror or str(error)).lower()}", hint=hint)
