"""What two predictions, two logs, or a log and a prediction do not share: `diff` for files with events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from privml.base.errors import Differs, UsageError
from privml.cli import files, replayed
from privml.cli.replayed import Change, Item
from privml.events.registers import MRTD, RTMRS
from privml.statement.launch import MeasuredLaunch, TdMachine


def diff_events(before: str, after: str, *, as_json: bool) -> None:
    """Compare two files event by event; ``Differs`` when they differ.

    Two predictions are compared for each platform and shape that both have; a log with the shape nearest to it. A log
    of firmware's is not asked for RTMR3.
    """
    a, b = Path(before), Path(after)
    left, right = files.read(a), files.read(b)
    for file in (left, right):
        if file.log is None and not file.shapes:
            raise UsageError(f"{file.path} is neither a prediction nor an event log: it is {file.finding.title}")
    results = []
    differ = False
    for label, ours, theirs, mrtd in _pairs(left, right):
        registers = RTMRS if left.log is None and right.log is None else RTMRS[:3]
        if left.log is not None and right.log is not None:
            registers = RTMRS
        found: list[Change] = []
        if ours is not None and theirs is not None:
            found = replayed.changes(ours, theirs, registers)
        alone = None if ours is not None and theirs is not None else str(a if theirs is None else b)
        differ = differ or bool(found) or not mrtd or alone is not None
        results.append(
            {
                "shape": label,
                "only_in": alone,
                "mrtd_equal": mrtd,
                "differences": [change.to_dict() for change in found],
            }
        )
        if not as_json:
            _show(label, found, mrtd=mrtd, alone=alone, names=("A", "B"))
    if as_json:
        click.echo(json.dumps({"a": str(a), "b": str(b), "equal": not differ, "shapes": results}, indent=2))
    if differ:
        raise Differs(f"{a} and {b} differ")


def _show(label: str, found: list[Change], *, mrtd: bool, alone: str | None, names: tuple[str, str]) -> None:
    click.echo(label)
    if alone is not None:
        click.echo(f"  only in {alone}")
    if not mrtd:
        click.echo("  mrtd differs: another firmware file")
    for change in found:
        click.echo(f"  {change.text(names, found)}")
    if mrtd and not found and alone is None:
        click.echo("  equal")


_Pair = tuple[str, Sequence[Item] | None, Sequence[Item] | None, bool]


def _pairs(left: files.File, right: files.File) -> Iterator[_Pair]:
    """(label, events of A, events of B, whether MRTD is the same) for each comparison to make."""
    if left.shapes and right.shapes:
        ours, theirs = ({_key(shape): shape for shape in file.shapes} for file in (left, right))
        for key in dict.fromkeys([*ours, *theirs]):
            one, other = ours.get(key), theirs.get(key)
            label = (one or other or left.shapes[0]).label
            same = one is None or other is None or one.registers[MRTD] == other.registers[MRTD]
            yield label, one.events if one else None, other.events if other else None, same
        return
    if left.shapes or right.shapes:
        shapes, log = (left.shapes, right) if left.shapes else (right.shapes, left)
        shape = replayed.nearest(shapes, log.finding.events)
        pair: tuple[Sequence[Item], Sequence[Item]] = (shape.events, log.items())
        yield shape.label, *(pair if left.shapes else pair[::-1]), True
        return
    yield "event logs", left.items(), right.items(), True


def _key(shape: MeasuredLaunch) -> tuple[str, str, TdMachine]:
    return shape.tee, shape.platform, shape.machine
