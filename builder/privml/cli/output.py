"""All terminal output of the verbs: lines for people, and JSON for programs.

Output may quote an untrusted file or machine (a partition's name, a manifest, a boot's log), so every line is
cleaned here: nothing can move the cursor, change the terminal's title, reverse the reading direction or add a line.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from types import TracebackType

import click

from privml.base.errors import printable


def show(*lines: str, err: bool = False) -> None:
    """Print each of ``lines`` as one line, cleaned; ``err`` prints to standard error."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    for line in lines:
        # A terminal that cannot show a character gets its escape, not an error.
        click.echo(printable(line).encode(encoding, "backslashreplace").decode(encoding), err=err)


def show_text(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, each of them cleaned. Only ``\\n`` ends a line; tabs stay."""
    for line in text.removesuffix("\n").split("\n"):
        show(line.removesuffix("\r").expandtabs(), err=err)


def print_json(document: object) -> None:
    """Print ``document`` with sorted keys and in ASCII, so that no name in it can control the terminal."""
    click.echo(json.dumps(document, indent=2, sort_keys=True))


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
