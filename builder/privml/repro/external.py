"""Optional diffoscope run on differing files.

It runs as a separate program, and its output is added to the report; it never decides whether files are equal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import run

Look = Callable[[Path, Path], str]
# diffoscope takes minutes on big archives, and its output can be very long.
SECONDS = 60
LOOKS = 5
_LIMIT = 20_000


def diffoscope() -> Look:
    """A function that runs the diffoscope on PATH; ``HostError`` if there is none."""
    program = shutil.which("diffoscope")
    if program is None:
        raise HostError("diffoscope is not on PATH", hint="install it, or run without --diffoscope")

    def look(a: Path, b: Path) -> str:
        words = [program, "--text", "-", "--max-text-report-size", str(_LIMIT), "--", str(a), str(b)]
        try:
            done = run(words, timeout=SECONDS, check=False, what="diffoscope")
        except HostError as error:
            return f"diffoscope failed: {error.message.splitlines()[0]}"
        if done.returncode == 1 and done.stdout.strip():
            return done.stdout.decode("utf-8", "replace")[:_LIMIT]
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        return f"diffoscope failed: status {done.returncode}" + (f", {said[-1]}" if said else "")

    return look
