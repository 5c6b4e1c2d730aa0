"""The options about the caller's policy, and `--explain`, of the verbs that give a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.cli.output import show
from privml.client import policies
from privml.evidence.tdx.signature import MAX_ROOT, root_der
from privml.verify.advice import explain
from privml.verify.policy import Policy


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--policy`, `--no-relaxations` and `--allow-simulated` to a command."""
    command = click.option(
        "--allow-simulated",
        "simulated_root",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Also accept a simulated platform with this root certificate, which proves nothing about hardware.",
    )(command)
    command = click.option(
        "--no-relaxations",
        is_flag=True,
        help="Ignore what the policy relaxes; what it tightens still applies.",
    )(command)
    return click.option(
        "--policy",
        "policy_file",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Your policy in TOML or JSON (docs/schemas/policy.schema.json). The default is strict.",
    )(command)


def explain_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--explain CODE`, which explains a refusal and ends."""

    def explained(context: click.Context, _: click.Parameter, code: str | None) -> None:
        if code is not None:
            show(*explain(code))
            context.exit(0)

    return click.option(
        "--explain",
        metavar="CODE",
        is_eager=True,
        expose_value=False,
        callback=explained,
        help="Explain a refusal code: what it means, what to do, and whether a policy can relax it.",
    )(command)


def policy_of(
    simulated_root: Path | None,
    file: Path | None = None,
    *,
    no_relaxations: bool = False,
    allow_demonstration: bool = False,
) -> Policy:
    """The policy in ``file`` (the strict one when there is none), with a simulated root when one is named."""
    policy = Policy() if file is None else policies.read(file)
    if no_relaxations:
        policy = policy.strict
    policy = dataclasses.replace(policy, allow_demonstration=allow_demonstration)
    if simulated_root is None:
        return policy
    try:
        return dataclasses.replace(policy, allow_simulated=root_der(read_start(simulated_root, MAX_ROOT)))
    except EvidenceError as error:
        raise UsageError(
            f"--allow-simulated {simulated_root}: not a certificate in PEM or DER",
            hint="name the root certificate of the simulated platform",
        ) from error
