"""`measure`: predict an image's registers; hold the prediction against a real boot; say what a file measures to."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, UsageError
from privml.base.steps import say, step
from privml.cli import files
from privml.cli.context import Target, Workplace, recipes_directory, resolve
from privml.events.event import Event
from privml.events.registers import RTMRS, Register
from privml.events.types import type_name
from privml.image.manifest import Manifest
from privml.machine.matrix import shapes as shapes_of
from privml.machine.platform import Platform, Shape
from privml.measure.artefact import Finding
from privml.statement.predicate import MeasuredShape
from privml.vm import bootdisk
from privml.vm.bench import Bench
from privml.vm.compared import Boot
from privml.vm.predicted import predict_image, write_prediction


@click.command()
@click.argument("target")
@click.option("--vcpus", metavar="N", help="Other shapes than the recipe's: processors, as in 2 or 1,2,4 or 1..64.")
@click.option("--memory", metavar="SIZE", help="Their memory, as in 4GiB or 2GiB,2815MiB or 2GiB..512GiB (doubling).")
@click.option("--boot", is_flag=True, help="Boot it under generic OVMF and swtpm, and compare event by event.")
@click.option("--disk", is_flag=True, help="With --boot: start the UKI from a disk that is made for it.")
@click.option("--events", is_flag=True, help="List every event with its origin and evidence.")
@click.option("--json", "as_json", is_flag=True, help="Print predicate v1 (or the comparison) as JSON.")
def measure(
    target: str, *, vcpus: str | None, memory: str | None, boot: bool, disk: bool, events: bool, as_json: bool
) -> None:
    """Predict MRTD and RTMR0..3 of TARGET for its platforms and shapes, and write prediction.json beside it.

    TARGET may also be a file: TDX firmware, a PE image, kernel or UKI, a GPT disk, a CCEL or TPM log, a quote,
    TDREPORT or ACPI and SMBIOS blobs of fw_cfg. Then say what it is and what it measures to.

    Every event says how its rule is known: `hardware` (a real TD's log or quote shows it), `tpm-boot` (real
    firmware under a software TPM), `source` (read, not seen). The weakest of a register is shown with its value.

    \b
    privml-build measure demo-cpu
    privml-build measure demo-cpu --events
    privml-build measure demo-cpu --boot
    privml-build measure demo-cpu --boot --disk --vcpus 1,4 --memory 2815MiB
    privml-build measure demo-cpu --vcpus 1..64 --memory 2GiB..64GiB --json
    privml-build measure OVMF.fd
    """
    if disk and not boot:
        raise UsageError("--disk is for --boot")
    if Path(target).is_file() and Path(target).suffix not in (".yaml", ".yml"):
        if boot or vcpus is not None or memory is not None:
            raise UsageError(f"{target} is a file: --boot, --vcpus and --memory are for images")
        _file(files.read(Path(target)).finding, events=events, as_json=as_json)
        return
    shapes = _shapes(vcpus, memory)
    found = resolve(target)
    manifest = found.manifest()
    place = Workplace()
    if boot:
        _boots(place, found, manifest, shapes or manifest.shapes[:1], disk=disk, as_json=as_json)
        return
    tools = place.tools_of(found)
    with step("Predicting"):
        predicate = predict_image(
            tools, place.store.root, found.directory, manifest, recipes_directory(found), shapes
        )
    if not shapes:
        say(f"wrote {write_prediction(found.directory, manifest, predicate)}")
    if as_json and len(shapes) > 1:
        click.echo(json.dumps([_matrix_row(one, events=events) for one in predicate.shapes], indent=2))
        return
    if as_json:
        click.echo(json.dumps(predicate.to_dict(), indent=2, sort_keys=True))
        return
    for measured in predicate.shapes:
        _show(measured, events=events)


def _shapes(vcpus: str | None, memory: str | None) -> tuple[Shape, ...]:
    if vcpus is None and memory is None:
        return ()
    if vcpus is None or memory is None:
        raise UsageError("a shape needs both --vcpus and --memory")
    return shapes_of(vcpus, memory)


def _file(finding: Finding, *, events: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding.to_dict(), indent=2))
        return
    click.echo(finding.title)
    for order, value in finding.mrtd.items():
        click.echo(f"  mrtd   {value.hex()}  {'' if order == 'mrtd' else order.replace('_', '-')}".rstrip())
    for register, value in finding.registers.items():
        click.echo(f"  {register.name.lower()}  {value.hex()}")
    for event in finding.events if events or not finding.registers else ():
        click.echo(f"    {event.register.name.lower()}  {event.digest.hex()}  {_what(event)}")
    for name, text in finding.facts.items():
        click.echo(f"  {name}: {text}")
    for note in finding.notes:
        click.echo(f"  note: {note}")


def _what(event: Event) -> str:
    seen = f"  (seen on {event.seen})" if event.seen else ""
    return f"{event.evidence.value:9}  {type_name(event.type)}  {event.origin}  {event.note}".rstrip() + seen


def _matrix_row(shape: MeasuredShape, *, events: bool) -> dict[str, Any]:
    """One shape of a matrix: values and evidence, and the events when they are asked for."""
    row: dict[str, Any] = {
        "platform": shape.platform,
        "vcpus": shape.vcpus,
        "memory": shape.memory,
        "mrtd": dict(zip(("single_pass", "two_pass"), (value.hex() for value in shape.mrtd), strict=False)),
    }
    row.update({register.name.lower(): shape.accepted(register)[0].hex() for register in RTMRS})
    row["evidence"] = {register.name.lower(): shape.evidence[register].value for register in Register}
    if events:
        row["events"] = [event.to_dict() for event in shape.events]
    return row


def _show(shape: MeasuredShape, *, events: bool) -> None:
    click.echo(shape.label)
    for register in Register:
        name = register.name.lower()
        for number, value in enumerate(shape.accepted(register)):
            note = ("single-pass", "two-pass")[number] if register is Register.MRTD else _weakest(shape, register)
            click.echo(f"  {name}  {value.hex()}  {shape.evidence[register].value}  {note}".rstrip())
        if events:
            for event in shape.of(register):
                seen = f"  (seen on {event.seen})" if event.seen else ""
                click.echo(f"    {event.digest.hex()[:24]}..  {event.evidence.value:9}  {event.origin}{seen}")


def _weakest(shape: MeasuredShape, register: Register) -> str:
    """Which events keep a register at its level: how many of them, and the first."""
    events = shape.of(register)
    weakest = [event for event in events if event.evidence is shape.evidence[register]]
    if not weakest or len(weakest) == len(events):
        return ""
    return f"for {len(weakest)} of {len(events)} events, first {weakest[0].origin}"


def _boots(
    place: Workplace,
    found: Target,
    manifest: Manifest,
    shapes: tuple[Shape, ...],
    *,
    disk: bool,
    as_json: bool,
) -> None:
    tools = place.tools_of(found)
    bench = Bench(tools, place.store.root, found.directory, manifest, recipes_directory(found))
    rows, problems = [], []
    with tempfile.TemporaryDirectory(prefix="privml-boot.") as name:
        boot_disk = bootdisk.make(tools, found.directory / "uki.efi", Path(name) / "boot.raw") if disk else None
        for shape in shapes:
            with step(f"Booting {shape} until the kernel has taken over"):
                booted = bench.boot(shape, boot_disk=boot_disk)
            rows.append(_as_json(bench.platform, shape, booted))
            problems += [f"{shape}: {problem}" for problem in _problems(booted)]
            if not as_json:
                _show_boot(shape, booted)
    if as_json:
        click.echo(json.dumps(rows if len(shapes) > 1 else rows[0], indent=2, sort_keys=True))
    if problems:
        raise Differs("\n".join(problems), hint="the first difference says which input to look at")
    click.echo("the log is the prediction, event by event, and the TPM's registers are the log's", err=as_json)


def _show_boot(shape: Shape, booted: Boot) -> None:
    click.echo(str(shape))
    for register, count in booted.comparison.matched.items():
        missing = sum(one.register is register and one.predicted is not None for one in booted.comparison.differences)
        click.echo(f"  {register.name.lower()}: {count} of {count + missing} predicted events are in the log")
    for difference in booted.comparison.differences:
        click.echo(f"  {difference.text()}")
    if booted.exit_failed:
        click.echo("  the kernel called ExitBootServices twice, as it may: two events more in rtmr1")
    if booted.account is not None:
        total = sum(booted.account.used.values())
        click.echo(f"  from a TD it differs in {total} events, each by one of {len(booted.account.used)} rules")
        for difference in booted.account.unexplained:
            click.echo(f"  no rule: {difference.text()}")


def _problems(booted: Boot) -> list[str]:
    found = []
    if booted.disagreeing:
        numbers = ", ".join(map(str, booted.disagreeing))
        found.append(
            f"the TPM's registers are not the replay of the log (PCR {numbers}): something extended a register "
            "without an event, or the log in memory is not whole"
        )
    if not booted.comparison.equal:
        found.append(f"the log differs from the prediction in {len(booted.comparison.differences)} events")
    if booted.account is not None and booted.account.unexplained:
        found.append(f"{len(booted.account.unexplained)} differences from a TD's prediction are no rule's")
    if booted.account is not None and booted.account.unused:
        found.append(f"differences from a TD that this boot does not show: {', '.join(booted.account.unused)}")
    return found


def _as_json(platform: Platform, shape: Shape, booted: Boot) -> dict[str, Any]:
    comparison = booted.comparison
    return {
        "platform": platform.name,
        "vcpus": shape.vcpus,
        "memory": shape.memory,
        "equal": booted.equal,
        "tpm_disagrees": list(booted.disagreeing),
        "exit_failed": booted.exit_failed,
        "td_rules": dict(booted.account.used) if booted.account else {},
        "td_unexplained": [one.to_dict() for one in booted.account.unexplained] if booted.account else [],
        "td_unused": list(booted.account.unused) if booted.account else [],
        "matched": {register.name.lower(): count for register, count in comparison.matched.items()},
        "differences": [difference.to_dict() for difference in comparison.differences],
    }
