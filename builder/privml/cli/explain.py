"""`explain`: why a register is what it is, and which event differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, UsageError
from privml.cli import files, replayed
from privml.events.event import Event
from privml.events.registers import RTMR3, RTMRS
from privml.events.types import type_name
from privml.statement.launch import MeasuredLaunch

_LOGGED = RTMRS[:3]


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(path_type=Path), help="A quote, TDREPORT, prediction, or another log.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(log: Path, *, against: Path | None, as_json: bool) -> None:
    """Replay a CCEL or TPM event LOG, say in words what each event is, and find what differs.

    Against a quote: which registers the log accounts for, and when one does not agree, the one event that would make
    it agree, if there is such an event. Against a prediction: the first differing event of each register. Exit status
    1 when something differs.

    \b
    privml-build explain ccel.bin
    privml-build explain ccel.bin --against quote.bin
    privml-build explain ccel.bin --against out/demo-cpu/prediction.json
    """
    file = files.read(log)
    if file.log is None:
        raise UsageError(f"{log} is no event log: it is a {file.finding.title}", hint="`measure FILE` reads it")
    other = files.read(against) if against is not None else file if file.claimed else None
    result: dict[str, Any] = {
        "log": {"kind": file.finding.kind, "path": str(log)},
        "registers": {name: value.hex() for name, value in file.finding.registers.items()},
        "events": [event.to_dict() for event in file.finding.events],
    }
    lines: list[str]
    if other is None:
        lines, agrees = _events(file), True
    elif other.claimed is not None:
        lines, agrees = _against_values(file, other, result)
    elif other.shapes or other.log is not None:
        lines, agrees = _against_events(file, other, result)
    else:
        raise UsageError(f"{against} is a {other.finding.title}: nothing to hold a log against")
    result["agrees"] = agrees
    click.echo(json.dumps(result, indent=2, sort_keys=True) if as_json else "\n".join(lines))
    if not agrees:
        raise Differs(
            f"{log} does not agree with {other.path if other is not None else log}",
            hint="the first difference of a register decides all of its value",
        )


def _events(file: files.File) -> list[str]:
    lines = [file.finding.title]
    for register in RTMRS:
        of = [event for event in file.finding.events if event.register == register]
        lines.append(f"{register}  {file.finding.registers[register].hex()}  {len(of)} events")
        lines += [_line(number, event) for number, event in enumerate(of, 1)]
    return lines


def _line(number: int, event: Event) -> str:
    return f"  {number:3}  {type_name(event.type)}  {event.digest.hex()[:16]}..  {event.note}"


def _against_values(file: files.File, other: files.File, result: dict[str, Any]) -> tuple[list[str], bool]:
    claimed, log = other.claimed or {}, file.log
    if log is None:
        raise UsageError(f"{file.path} is no event log")
    registers: dict[str, Any] = {}
    lines = [f"{file.finding.title}, against {other.finding.title if other is not file else 'the quote beside it'}"]
    agrees = True
    for register in RTMRS:
        events = [event for event in log.logged if event.register == register]
        equal = file.finding.registers[register] == claimed[register]
        name = register
        row: dict[str, Any] = {"equal": equal, "log": file.finding.registers[register].hex()}
        row["quote"] = claimed[register].hex()
        if equal:
            lines.append(f"{name}: agrees ({len(events)} events)")
        elif register == RTMR3 and not events:
            lines.append(f"{name}: software in the TD extended it; firmware's log knows nothing of that")
            row["note"] = "extended by software in the TD"
        else:
            agrees = False
            why = replayed.one_change(events, claimed[register])
            row["change"] = why
            told = why or "no single change of the log explains it: it is another boot's, or several events differ"
            lines.append(f"{name}: differs; {told}")
        registers[name] = row
    result["against"] = {"kind": other.finding.kind, "path": str(other.path), "registers": registers}
    return lines, agrees


def _against_events(file: files.File, other: files.File, result: dict[str, Any]) -> tuple[list[str], bool]:
    shape: MeasuredLaunch | None = None
    if other.shapes:
        shape = replayed.nearest(other.shapes, file.finding.events)
    expected = shape.events if shape is not None else other.items()
    names = ("predicted", "logged") if shape is not None else (str(other.path), str(file.path))
    found = replayed.changes(expected, file.items(), _LOGGED)
    title = f"prediction for {shape.label}" if shape is not None else other.finding.title
    lines = [f"{file.finding.title}, against {title}"]
    for register in _LOGGED:
        of = [change for change in found if change.register == register]
        count = len([event for event in expected if event.register == register])
        if not of:
            lines.append(f"{register}: agrees ({count} events)")
            continue
        lines.append(f"{register}: {len(of)} differences; the first is")
        lines.append(f"  {of[0].text(names, of)}")
        lines += [f"  then {change.text(names, of)}" for change in of[1:]]
    result["against"] = {
        "kind": other.finding.kind,
        "path": str(other.path),
        "shape": shape.label if shape is not None else None,
        "differences": [change.to_dict() for change in found],
    }
    return lines, not found
