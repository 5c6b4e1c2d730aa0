"""Options that `verify` and `proxy` share: the trust anchor and the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import loads
from privml.cli import paths
from privml.evidence.tdx import collateral
from privml.evidence.tdx.signature import root_der
from privml.verify.policy import Policy


def anchor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--expect`, `--collateral` and `--allow-simulated` to a command."""
    command = click.option(
        "--allow-simulated",
        "simulated_root",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Also accept a simulated TDX platform with this root certificate, which proves nothing about hardware.",
    )(command)
    command = click.option(
        "--collateral",
        "collateral_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Intel's collateral for the quote (the JSON of Intel's QVL, nine fields), when the document has none.",
    )(command)
    return click.option(
        "--expect",
        required=True,
        type=paths.Existing("the directory of a built image", directory=True),
        help="The directory of an image that you built, with its prediction.json.",
    )(command)


def collateral_of(path: Path | None) -> dict[str, str] | None:
    """The collateral in a file; it is checked against Intel's root like any other."""
    return None if path is None else collateral.decode(loads(path.read_bytes(), what=path.name), path.name)


def policy_of(simulated_root: Path | None) -> Policy:
    """The strict policy, with a simulated root when one is named."""
    if simulated_root is None:
        return Policy()
    try:
        return Policy(allow_simulated=root_der(simulated_root.read_bytes()))
    except EvidenceError as error:
        raise UsageError(
            f"--allow-simulated {simulated_root}: not a certificate in PEM or DER",
            hint="name the root certificate of the simulated platform",
        ) from error
