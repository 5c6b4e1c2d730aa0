"""Options for guests behind somebody else's TLS server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.errors import UsageError
from privml.client.terminator import Terminator


def via_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--via` and `--via-ca` to a command, which gets them as ``terminator``."""

    @click.option(
        "--via",
        metavar="URL",
        help="Reach guests through somebody else's TLS server at URL (port 443 by default), by sealed requests only.",
    )
    @click.option(
        "--via-ca",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The authorities of that server's certificate, as PEM.  [default: this system's]",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, via: str | None, via_ca: Path | None, **options: Any) -> Any:
        if via is None and via_ca is not None:
            raise UsageError("--via-ca goes with --via")
        terminator = None if via is None else Terminator.at(via, via_ca)
        return command(*arguments, terminator=terminator, **options)

    return wrapped
