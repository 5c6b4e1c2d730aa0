"""`explain`: why a register is what it is, and which event differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, UsageError
from privml.cli.output import print_json, show
from privml.events.event import Event
from privml.events.registers import LAUNCH
from privml.events.tcg import bank_name
from privml.events.types import type_name
from privml.output.prediction import PREDICTION_FILE, read_prediction
from privml.readers import compare, files
from privml.readers.compare import FIRMWARE_REGISTERS, EventCheck, RegisterCheck
from privml.readers.file import File


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Compare with a quote, TDREPORT, prediction, the directory of an image, or another log.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the events and the comparison as JSON.")
def explain(log: Path, *, against: Path | None, as_json: bool) -> None:
    """Replay a CCEL or TPM event log, describe each event, and find the event that differs.

    With --against a quote or TDREPORT: which registers the log accounts for and, for one that does not agree, the one
    event that would make it agree, if there is one. With --against a prediction or another log: the first differing
    event of each register. Exit status 1 when something differs.

    An SEV-SNP guest has no log: LOG is then its report, and --against an image's directory. If the launch digest is
    not predicted, other numbers and kinds of vCPUs are tried, and a launch without kernel hashes.

    \b
    Examples:
      privml-build explain ccel.bin
      privml-build explain ccel.bin --against quote.bin
      privml-build explain ccel.bin --against out/demo-cpu/prediction.json
      privml-build explain report.bin --against out/demo-cpu
    """
    file = files.read(log)
    if file.log is None and LAUNCH in file.description.registers and not file.shapes:
        _launch(file, against, as_json=as_json)
        return
    if against is not None and against.is_dir():
        against /= PREDICTION_FILE
    if file.log is None:
        raise UsageError(
            f"{log} is not an event log: {file.description.title}",
            hint="`privml-build measure FILE` describes it",
        )
    other = files.read(against) if against is not None else file if file.claimed else None
    result: dict[str, Any] = {
        "log": {"kind": file.description.kind, "path": str(log)},
        "registers": {name: value.hex() for name, value in file.description.registers.items()},
        "events": [
            *(event.to_dict() for event in file.description.events),
            *(record.to_dict() for record in file.description.records),
        ],
        "banks": [bank_name(bank) for bank in file.log.banks],
    }
    agrees = True
    if other is None:
        lines = _events(file)
    elif other.claimed is not None:
        checks = compare.with_values(file.log, other.claimed)
        agrees = all(check.agrees for check in checks)
        title = "the quote next to it" if other is file else other.description.title
        lines = [f"{file.description.title}, against {title}"]
        lines += [_check(check) for check in checks]
        registers = {check.register: check.to_dict() for check in checks}
        result["against"] = {"kind": other.description.kind, "path": str(other.path), "registers": registers}
    elif other.shapes or other.log is not None:
        found = compare.with_events(file, other)
        agrees = not found.changes
        lines = _differences(file, other, found)
        result["against"] = {
            "kind": other.description.kind,
            "path": str(other.path),
            "shape": found.shape.label if found.shape is not None else None,
            "differences": [change.to_dict() for change in found.changes],
        }
    else:
        raise UsageError(
            f"{against} is {other.description.title}; expected a quote, a TDREPORT, a prediction or an event log"
        )
    result["agrees"] = agrees
    if as_json:
        print_json(result)
    else:
        show(*lines)
    if not agrees:
        raise Differs(
            f"{log} does not agree with {other.path if other is not None else log}",
            hint="look at the first difference of each register: it changes the whole value",
        )


def _launch(file: File, against: Path | None, *, as_json: bool) -> None:
    """Compare the launch digest of an SNP report with an image's."""
    if against is not None and not against.exists():
        raise UsageError(f"--against {against} does not exist", hint="name the directory of a built image")
    if against is None or not against.is_dir():
        raise UsageError(
            f"{file.path} is {file.description.title}: its launch digest is explained by an image",
            hint="add --against out/NAME, the directory of an image with firmware for snp",
        )
    # What an image needs takes longer to load than a log takes to read.
    from privml.output import manifest as manifests
    from privml.recipe.platform import SNP
    from privml.vm import snplaunch

    manifest = manifests.read(against)
    digest = file.description.registers[LAUNCH]
    found = snplaunch.check(digest, against, manifest, read_prediction(against, manifest))
    if as_json:
        report = {"kind": file.description.kind, "path": str(file.path)}
        print_json({"report": report, "registers": {LAUNCH: found.to_dict()}, "agrees": found.label is not None})
    elif found.label is not None:
        show(f"{LAUNCH}: agrees ({found.label})")
    else:
        show(f"{LAUNCH}: differs; {found.why}")
    if found.label is None:
        raise Differs(
            f"the launch digest of {file.path} is not predicted for {manifest.name}",
            hint=f"start it as predicted, with {manifest.firmware_for(SNP).file} and not the package's own firmware; "
            "or predict its machine: `measure --tee snp --vcpus N`, or a platform of its own",
        )


def _events(file: File) -> list[str]:
    lines = [file.description.title]
    for register, value in file.description.registers.items():
        of = [event for event in file.description.events if event.register == register]
        lines.append(f"{register}  {value.hex()}  {_events_of(len(of))}")
        lines += [_line(number, event) for number, event in enumerate(of, 1)]
    records = file.description.records
    for index in sorted({record.index for record in records}):
        numbered = [record for record in records if record.index == index]
        name = "PCR" if file.log is not None and file.log.tpm else "MR index"
        lines.append(f"{name} {index}  {_events_of(len(numbered))}")
        lines += [f"  {number:3}  {record.text()}" for number, record in enumerate(numbered, 1)]
    if file.log is not None:
        lines.append(f"banks: {file.log.bank_names}")
    return lines + [f"note: {note}" for note in file.description.notes]


def _events_of(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _line(number: int, event: Event) -> str:
    return f"  {number:3}  {type_name(event.type)}  {event.digest.hex()[:16]}..  {event.note}"


def _check(check: RegisterCheck) -> str:
    if check.equal:
        return f"{check.register}: agrees ({_events_of(check.events)}){f'; {check.note}' if check.note else ''}"
    if check.extended_in_guest:
        return f"{check.register}: extended by software in the TD, which the firmware's log does not record"
    return f"{check.register}: differs; {check.change or check.why}"


def _differences(file: File, other: File, found: EventCheck) -> list[str]:
    shape = found.shape
    names = ("predicted", "logged") if shape is not None else (str(other.path), str(file.path))
    title = f"prediction for {shape.label}" if shape is not None else f"{other.path} ({other.description.title})"
    lines = [f"{file.path} ({file.description.title}), against {title}"]
    for register in FIRMWARE_REGISTERS:
        of = found.of(register)
        if not of:
            lines.append(f"{register}: agrees ({_events_of(found.count(register))})")
            continue
        lines.append(f"{register}: {len(of)} difference{'' if len(of) == 1 else 's; the first is'}")
        lines.append(f"  {of[0].text(names, of)}")
        lines += [f"  then {change.text(names, of)}" for change in of[1:]]
    return lines
