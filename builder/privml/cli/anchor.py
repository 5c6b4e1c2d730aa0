"""Options that `verify` and `proxy` share: the trust anchor, the policy, and where collateral comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.files import read_start
from privml.base.strictjson import MAX_BYTES, loads
from privml.cli import paths
from privml.cli.policy import policy_options
from privml.client.attested import Collateral
from privml.client.supply import SERVICE, supply
from privml.evidence.tdx import collateral
from privml.verify.policy import Policy


def anchor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--expect`, the policy's options and those for collateral to a command."""
    command = policy_options(command)
    command = click.option(
        "--offline", is_flag=True, help="Fetch no collateral: use the cache's, or else the document's."
    )(command)
    command = click.option(
        "--collateral-service",
        "service",
        metavar="URL",
        envvar=SERVICE,
        help=f"Fetch collateral from this PCCS instead of Intel's service [${SERVICE}].",
    )(command)
    command = click.option(
        "--collateral",
        "collateral_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Use Intel's collateral in this file (the JSON of Intel's QVL, nine fields), and fetch none.",
    )(command)
    return click.option(
        "--expect",
        required=True,
        type=paths.Existing("the directory of a built image", directory=True),
        help="The directory of an image that you built, with its prediction.json.",
    )(command)


def collateral_of(
    path: Path | None, service: str | None, *, offline: bool, policy: Policy, past: bool = False
) -> Collateral | None:
    """Where collateral comes from: a file; the cache; and the service, by default Intel's, unless ``offline``.

    With ``past``, the evidence is judged as of another time than now, so neither cache nor service is used. Whatever
    it is, it is checked against Intel's root.
    """
    given = collateral_in(path)
    return given if past else supply(service, offline=offline, policy=policy, given=given)


def collateral_in(path: Path | None) -> dict[str, str] | None:
    """The nine fields in a file; None without one."""
    if path is None:
        return None
    what = f"--collateral {path.name}"
    return collateral.decode(loads(read_start(path, MAX_BYTES), what=what), what)
