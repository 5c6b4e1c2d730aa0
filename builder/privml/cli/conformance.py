"""`verify --conformance`: run another verifier over the project's cases; and answer them as such a verifier."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from privml.base.errors import Differs
from privml.cli.output import show


def conformance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--conformance` and `--answer-cases`, which do their work in place of the command's."""
    command = click.option(
        "--answer-cases",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_answer,
        help="Judge cases from standard input, one JSON object a line, and answer each (docs/VERIFIERS.md).",
    )(command)
    return click.option(
        "--conformance",
        metavar="CMD",
        is_eager=True,
        expose_value=False,
        callback=_compare,
        help="Run another verifier over this project's cases and compare its answers (docs/VERIFIERS.md).",
    )(command)


def _answer(context: click.Context, _: click.Parameter, given: bool) -> None:
    if not given or context.resilient_parsing:
        return
    from privml.client import conformance

    for line in sys.stdin.buffer:
        show(json.dumps(conformance.answer(line), sort_keys=True))
    context.exit(0)


def _compare(context: click.Context, _: click.Parameter, command: str | None) -> None:
    if command is None or context.resilient_parsing:
        return
    from privml.client import conformance

    results = conformance.ask(command, conformance.cases(conformance.directory()))
    show(*conformance.table(results))
    wrong = [result for result in results if result.mark is not conformance.Mark.RIGHT]
    if wrong:
        raise Differs(f"{len(wrong)} of {len(results)} answers are not the expected ones")
    context.exit(0)
