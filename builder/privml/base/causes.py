"""Causes of a failed command that lie in this machine, recognised by what the command printed: one table.

A full disk ends a build with the same status as a mistake in it. `run` asks this table, so that the error names what
to mend and has the exit code of a host error, whatever program found it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError

LITTLE = 16 * 1024 * 1024
"""A disk with less free space than this counts as full."""


class HostCause(HostError):
    """A command failed because of this machine; ``cause`` is the id of a row of `CAUSES`."""

    def __init__(self, cause: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


@dataclass(frozen=True)
class Cause:
    """A cause: its id, what programs print of it, what it means, and what to do."""

    id: str
    printed: re.Pattern[bytes]
    meaning: Callable[[], str]
    remedy: str


def _full() -> str:
    import shutil
    import tempfile

    folder = Path(tempfile.gettempdir())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "no room on a disk"
    return f"no room in {folder} (TMPDIR)" if free < LITTLE else "no room on a disk that it writes to"


CAUSES = (
    Cause(
        "full",
        re.compile(rb"No space left on device|\bENOSPC\b|\[Errno 28\]"),
        _full,
        "make room, or set TMPDIR, PRIVML_STORE or `--output` to another disk",
    ),
    Cause(
        "quota",
        re.compile(rb"Disk quota exceeded|\bEDQUOT\b|\[Errno 122\]"),
        lambda: "this user's disk quota is used up",
        "make room, or set TMPDIR, PRIVML_STORE or `--output` to another disk",
    ),
    Cause(
        "read-only",
        re.compile(rb"Read-only file system|\bEROFS\b|\[Errno 30\]"),
        lambda: "a file system that it writes to is read-only",
        "set TMPDIR, PRIVML_STORE or `--output` to a disk that can be written",
    ),
    Cause(
        "namespaces",
        re.compile(rb"unshare[^\n]*Operation not permitted|a mount namespace cannot be made"),
        lambda: "namespaces cannot be made here",
        "`privml-build doctor` says what is missing",
    ),
)


def found_in(output: bytes) -> Cause | None:
    """The first cause that ``output`` of a failed command names; None if there is none."""
    return next((cause for cause in CAUSES if cause.printed.search(output)), None)
