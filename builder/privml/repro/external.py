"""diffoscope, where somebody installed it: a look into two differing files, as text for a person.

It runs as a program of its own and decides nothing; without it a report says everything but what it would show.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import run

Look = Callable[[Path, Path], str]
# diffoscope takes minutes over big archives, and nobody reads more than a few of its pages.
SECONDS = 60
LOOKS = 5
_LIMIT = 20_000


def diffoscope() -> Look:
    """A look by the diffoscope on PATH; ``HostError`` when there is none."""
    program = shutil.which("diffoscope")
    if program is None:
        raise HostError("diffoscope is not on PATH", hint="install it, or leave out --diffoscope")

    def look(a: Path, b: Path) -> str:
        words = [program, "--text", "-", "--max-text-report-size", str(_LIMIT), "--", str(a), str(b)]
        try:
            done = run(words, timeout=SECONDS, check=False, what="diffoscope")
        except HostError as error:
            return f"diffoscope gave nothing: {error.message.splitlines()[0]}"
        if done.returncode == 1 and done.stdout.strip():
            return done.stdout.decode("utf-8", "replace")[:_LIMIT]
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        return f"diffoscope gave nothing: status {done.returncode}" + (f", {said[-1]}" if said else "")

    return look
