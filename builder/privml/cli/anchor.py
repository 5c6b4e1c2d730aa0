"""Options that `verify` and `proxy` share: the trust anchor, the collateral and the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.strictjson import loads
from privml.cli.policy import policy_options
from privml.evidence.tdx import collateral


def anchor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--expect`, `--collateral` and the policy's options to a command."""
    command = policy_options(command)
    command = click.option(
        "--collateral",
        "collateral_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Intel's collateral for the quote (the JSON of Intel's QVL, nine fields), when the document has none.",
    )(command)
    return click.option(
        "--expect",
        required=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The directory of an image that you built, with its prediction.json.",
    )(command)


def collateral_of(path: Path | None) -> dict[str, str] | None:
    """The collateral in a file; it is checked against Intel's root like any other."""
    return None if path is None else collateral.decode(loads(path.read_bytes(), what=path.name), path.name)
