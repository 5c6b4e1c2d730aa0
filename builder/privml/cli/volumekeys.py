"""The options about encrypted volumes: their keys, and the image whose ciphertext is taken without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(dir_okay=False, path_type=Path)


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--key` and `--volumes`, for verbs that build."""
    command = click.option(
        "--volumes",
        "volumes",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Take encrypted volumes without a key from the image in DIR, as they are.",
    )(command)
    return click.option(
        "--key",
        "key_files",
        multiple=True,
        metavar="FILE",
        type=_FILE,
        help="The key of an encrypted volume, a file that only you can read; repeatable, one for each.",
    )(command)


def volume_key_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--volume-key`, for verbs whose `--key` signs. What they sign was built, so volumes are never given."""
    return click.option(
        "--volume-key",
        "key_files",
        multiple=True,
        metavar="FILE",
        type=_FILE,
        help="The key of an encrypted volume, a file that only you can read; repeatable, one for each.",
    )(command)
