"""Types of arguments and options that name something that must exist; their errors say what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class Existing(click.ParamType[Path]):
    """A path of a file (with ``directory``: of a directory) that exists; ``expected`` names it in errors."""

    name = "path"

    def __init__(self, expected: str, *, directory: bool = False) -> None:
        self.expected = expected
        self.directory = directory

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; a usage error says what is there instead."""
        path = Path(value)
        found = None
        if not str(value):
            found = "it is empty"
        elif not path.exists():
            found = f"`{path}` does not exist"
        elif path.is_dir() != self.directory:
            found = f"`{path}` is {'a directory' if path.is_dir() else 'not a directory'}"
        if found is not None:
            self.fail(f"{found}, expected {self.expected}", param, ctx)
        return path
