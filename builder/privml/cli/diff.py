"""`diff`: what changed between two things of one kind, and which registers that moves.

``kind_of`` sniffs what an argument is and ``KINDS`` says who compares two of that kind: another kind is one more row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from privml.base.errors import Differs, UsageError
from privml.base.strictjson import pretty
from privml.cli.context import Workplace, resolve
from privml.cli.diff_events import diff_events
from privml.cli.repro import compared
from privml.image import manifest as manifests
from privml.repro.changes import changes, moved
from privml.repro.owners import Owners

_SHOWN = 40


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print all changes as JSON.")
def diff(before: str, after: str, *, as_json: bool) -> None:
    """Tell what changed from A to B, and which registers each change moves.

    An image is a recipe's name or the directory of a built image. A file is a prediction.json or a CCEL or TPM event
    log; those are compared event by event. Exit status: 0 for no change, 1 for any.

    \b
    privml-build diff out/demo-cpu /tmp/rebuilt
    privml-build diff demo-cpu demo-cpu-dev
    privml-build diff old/prediction.json out/demo-cpu/prediction.json
    privml-build diff yesterday.ccel today.ccel
    """
    kinds = (kind_of(before), kind_of(after))
    if kinds[0] != kinds[1]:
        raise UsageError(f"`{before}` is of kind {kinds[0]}, `{after}` of kind {kinds[1]}: nothing to compare")
    KINDS[kinds[0]](before, after, as_json=as_json)


def kind_of(text: str) -> str:
    """What an argument is: ``events`` for a file that is no recipe, ``image`` for whatever names one."""
    return "events" if Path(text).is_file() and not text.endswith(".yaml") else "image"


def diff_images(before: str, after: str, *, as_json: bool) -> None:
    """Compare two built images, with the owner of every file from the packages of the first."""
    a, b = resolve(before).directory, resolve(after).directory
    one, two = manifests.read(a), manifests.read(b)
    place = Workplace()
    owners = Owners(((row[0], row[3]) for row in one.packages), place.store)
    report = compared(a, b, place.tools(), owners)
    found = changes(one, two, report)
    registers = moved(report)
    if as_json:
        document = {
            "equal": report.equal,
            "registers_moved": None if registers is None else list(registers),
            "changes": [change.to_dict() for change in found],
        }
        click.echo(pretty(document).decode(), nl=False)
    else:
        for change in found[:_SHOWN]:
            click.echo(change.text())
        if len(found) > _SHOWN:
            click.echo(f"{len(found) - _SHOWN} more: see --json")
        if registers is None:
            click.echo("registers that move: unknown, the images are predicted for different machines")
        else:
            click.echo(f"registers that move: {', '.join(registers) or 'none'}")
    if not report.equal:
        told = len(found) or len(report.findings)
        raise Differs(f"the images differ in {told} things", hint="`--json` lists all of them")


KINDS: dict[str, Callable[..., None]] = {"image": diff_images, "events": diff_events}
