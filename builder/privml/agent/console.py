"""The console, which the host reads: the only place where the agent writes to it.

A line is a constant text of the agent with fields of root's own checks in it: names, digests, sizes, and errors of
the machine. What an engine, a service or a caller sends is never in one, except for the last line of an engine that
ended before any request (`agent.lastline`). Whatever a field holds, a line is one line of bounded length without
control characters.
"""

from __future__ import annotations

import sys

from privml.base.errors import printable

LIMIT = 1000
"""Maximum characters of a line or a stage's detail."""


def clean(text: str, limit: int = LIMIT) -> str:
    """``text`` as it may be shown: on one line, printable and not longer than ``limit``."""
    # Cut before escaping: a field may be megabytes long, and an escape is up to ten characters.
    return printable(" ".join(text[: 4 * limit].split()))[:limit]


def say(line: str) -> None:
    """Write one line to the console."""
    sys.stderr.write(clean(line) + "\n")
    sys.stderr.flush()
