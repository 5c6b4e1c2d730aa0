"""Log records and tracebacks on the terminal, cleaned like all other output."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from privml.base.errors import printable
from privml.cli.output import show_text


class CleanFormatter(logging.Formatter):
    """Formats log records, tracebacks included, as cleaned lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's message, one cleaned line for each of its lines."""
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def log_to_terminal(level: int) -> None:
    """Send log records of ``level`` and above to standard error, cleaned."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CleanFormatter())
    logging.basicConfig(level=level, handlers=[handler])


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug, cleaned: its message may quote a file."""
    for part in traceback.format_exception(kind, error, trace):
        show_text(part, err=True)
