"""Start the program: `measure FILE` directly, every other command line with `cli.main`.

Loading the command line's parser is an eighth of the time that `measure` takes for a firmware.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from privml.base.errors import PrivmlError

if TYPE_CHECKING:
    from types import TracebackType

    from privml.measure.description import Description

_OPTIONS = {"--events", "--json"}


def main() -> None:
    """Run the program and exit."""
    words = sys.argv[1:]
    _open_closed_streams()
    sys.excepthook = _show_bug
    found = _described(words)
    if found is None:
        from privml.cli.main import main as run

        run(words)
        return
    from privml.cli.described import print_description

    try:
        print_description(found, events="--events" in words, as_json="--json" in words)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed.

    Python has no object for such a stream, and the next file that is opened would get its number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _described(words: list[str]) -> Description | None:
    """The description for `measure FILE [--events] [--json]` of a regular file.

    None for any other command line, and if there is anything to report besides the description: `cli.main` does that.
    """
    if words[:1] != ["measure"]:
        return None
    names = [word for word in words[1:] if word not in _OPTIONS]
    if len(names) != 1 or names[0].startswith("-") or names[0].endswith((".yaml", ".yml")):
        return None
    path = Path(names[0])
    try:
        if not path.is_file():
            return None
        from privml.readers import files

        found = files.read(path).description
    except (PrivmlError, OSError):
        return None
    return None if found.records else found


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from privml.cli.logs import show_traceback

    show_traceback(kind, error, trace)
