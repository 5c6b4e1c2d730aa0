"""Arguments and options that name a place: files that must exist, and addresses to listen on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from privml.base.errors import UsageError


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


def listen_address(listen: str) -> tuple[str, int]:
    """The host and port of ``HOST:PORT``; ``UsageError`` for anything else."""
    host, _, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"--listen {listen}: expected HOST:PORT")
    return host, int(port)
