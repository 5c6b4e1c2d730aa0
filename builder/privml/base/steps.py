"""Show the steps of a long command and their duration on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

_depth = 0
_quiet = False
_last_progress = 0.0


def set_quiet(quiet: bool) -> None:
    """Silence steps (``--quiet``); errors are still shown."""
    global _quiet
    _quiet = quiet


def say(text: str) -> None:
    """Write one line to standard error, indented under the running step."""
    if not _quiet:
        sys.stderr.write(f"{'  ' * _depth}{text}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Announce the block's work, then its duration. A failing step prints nothing more."""
    global _depth
    say(f"> {text}")
    start = time.monotonic()
    _depth += 1
    try:
        yield
    finally:
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
        sys.stderr.write(f"\r\x1b[K{'  ' * _depth}{text}" + ("\n" if final else ""))
        sys.stderr.flush()
