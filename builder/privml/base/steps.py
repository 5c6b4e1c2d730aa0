"""Show the steps of a long command and their duration on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from privml.base.errors import printable

_depth = 0
_quiet = False
_last_progress = 0.0
_heard: list[str] | None = None
SILENCE = 30.0
"""Seconds after which a running step says again that it runs."""


def set_quiet(quiet: bool) -> None:
    """Silence steps (``--quiet``); errors are still shown."""
    global _quiet
    _quiet = quiet


def say(text: str) -> None:
    """Print ``text`` on standard error, indented under the running step; each of its lines is cleaned."""
    if _heard is not None:
        _heard.append(text)
    if not _quiet:
        _write("".join(f"{_line(line)}\n" for line in text.split("\n")))


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collect every text that the block says, also when `--quiet`."""
    global _heard
    texts: list[str] = []
    _heard = texts
    try:
        yield texts
    finally:
        _heard = None


def complain(text: str) -> None:
    """Print an error's text on standard error, also when `--quiet`; each of its lines is cleaned.

    Lines after the first are indented, so that a quoted text that holds a line end cannot pass for another message.
    """
    first, *rest = (printable(line) for line in text.split("\n"))
    _write("".join(f"{line}\n" for line in (first, *(line if line[:1] == " " else f"  {line}" for line in rest))))


def _line(text: str) -> str:
    return "  " * _depth + printable(text)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Announce the block's work, every `SILENCE` seconds that it still runs, then its duration.

    A failing step prints nothing more.
    """
    global _depth
    say(f"> {text}")
    start = time.monotonic()
    _depth += 1
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(SILENCE):
            say(f"{text}: {time.monotonic() - start:.0f} s so far")

    reminder = threading.Thread(target=remind, name="step", daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
        _depth -= 1
    say(f"  {text}: done in {time.monotonic() - start:.1f} s")


def progress(text: str, *, final: bool = False) -> None:
    """Show a line that is updated in place on a terminal, at most five times a second; elsewhere only when final."""
    global _last_progress
    if _quiet:
        return
    if not sys.stderr.isatty():
        if final:
            say(text)
        return
    now = time.monotonic()
    if final or now - _last_progress > 0.2:
        _last_progress = now
        _write(f"\r\x1b[K{_line(text)}" + ("\n" if final else ""))
