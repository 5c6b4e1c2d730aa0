"""Options that `verify` and `proxy` share: the trust anchor, the policy, and where collateral comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import loads
from privml.client.attested import Collateral
from privml.client.collateral import SERVICE, supply
from privml.evidence.tdx import collateral
from privml.evidence.tdx.signature import root_der
from privml.verify.policy import Policy


def anchor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--expect`, `--allow-simulated` and the options for collateral to a command."""
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
        "--allow-simulated",
        "simulated_root",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Also accept a simulated TDX platform with this root certificate, which proves nothing about hardware.",
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
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The directory of an image that you built, with its prediction.json.",
    )(command)


def collateral_of(path: Path | None, service: str | None, *, offline: bool, policy: Policy) -> Collateral:
    """Where collateral comes from: a file; the cache; and the service, by default Intel's, unless ``offline``.

    Whatever it is, it is checked against Intel's root.
    """
    given = None if path is None else collateral.decode(loads(path.read_bytes(), what=path.name), path.name)
    return supply(service, offline=offline, policy=policy, given=given)


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
