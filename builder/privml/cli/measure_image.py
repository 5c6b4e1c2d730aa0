"""`measure` of an image: predict its registers, and hold the prediction against a boot, a capture, another tool."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Differs, UsageError
from privml.base.steps import say, step
from privml.cli.output import print_json
from privml.events.event import seen_words
from privml.events.registers import MRTD, RTMRS, TDX_REGISTERS
from privml.image.target import Target, recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.machine.matrix import shapes as shapes_of
from privml.machine.platform import Shape
from privml.measure import firmware, uki
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.readers import files
from privml.readers import replay as replays
from privml.statement.launch import MeasuredLaunch
from privml.vm import bootdisk, crosscheck
from privml.vm.bench import Bench
from privml.vm.compared import ComparedBoot
from privml.vm.platforms import platform as load_platform
from privml.vm.predicted import Predictor, predict_image


def measure_image(
    target: str,
    *,
    vcpus: str | None,
    memory: str | None,
    boot: bool,
    disk: bool,
    replay: Path | None,
    cross_check: bool,
    events: bool,
    as_json: bool,
) -> None:
    """What `measure TARGET` does when TARGET is an image; the arguments are the verb's options."""
    shapes = _shapes(vcpus, memory)
    found = resolve(target)
    manifest = found.manifest()
    if replay is not None:
        _replay(found.directory, manifest, replay, as_json=as_json)
        return
    place = Workplace()
    if boot:
        _boots(place, found, manifest, shapes or manifest.shapes[:1], disk=disk, as_json=as_json)
        return
    if cross_check:
        _cross_check(place, found, manifest, shapes or manifest.shapes, as_json=as_json)
        return
    tools = place.tools_of(found)
    with step("Predicting"):
        predicate = predict_image(
            tools, place.store.root, found.directory, manifest, recipes_directory(found), shapes
        )
    if not shapes:
        say(f"wrote {write_prediction(found.directory, manifest, predicate)}")
    if as_json and len(shapes) > 1:
        print_json([_matrix_row(one, events=events) for one in predicate.launches])
        return
    if as_json:
        print_json(predicate.to_dict())
        return
    for measured in predicate.launches:
        _show(measured, events=events)


def _replay(directory: Path, manifest: Manifest, archive: Path, *, as_json: bool) -> None:
    """Print how the capture differs from the image's prediction; ``Differs`` when it does."""
    file = files.read(archive)
    if file.capture is None:
        raise UsageError(
            f"{archive} is no capture: it is {file.description.title}", hint="`privml-build capture` makes one"
        )
    check_artefacts(directory, manifest.artefacts)
    found = replays.replay(
        uki.facts((directory / "uki.efi").read_bytes()),
        firmware.facts((directory / "firmware.fd").read_bytes()),
        file,
        origins=manifest.origins,
        agent_events=manifest.agent_events,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        for register, count in found.comparison.matched.items():
            total = sum(event.register == register for event in found.predicted)
            click.echo(f"{register}: {count} of {total} predicted events are in the log")
        for line in (*(one.text() for one in found.comparison.differences), *found.problems):
            click.echo(line)
        for note in found.notes:
            click.echo(f"note: {note}")
    if not found.equal:
        count = len(found.comparison.differences) + len(found.problems)
        raise Differs(f"{archive} differs from the prediction in {count} places", hint="the first one decides")


def _cross_check(
    place: Workplace, found: Target, manifest: Manifest, shapes: tuple[Shape, ...], *, as_json: bool
) -> None:
    tool = crosscheck.program()
    predictor = Predictor(place.tools_of(found), place.store.root, found.directory, manifest)
    rows: list[dict[str, Any]] = []
    for name in manifest.platforms:
        platform = load_platform(name, recipes_directory(found))
        for shape in shapes:
            checks = predictor.cross_check(tool, platform, shape, found.directory / "firmware.fd")
            rows.append(
                {
                    "platform": name,
                    "vcpus": shape.vcpus,
                    "memory": shape.memory,
                    "equal": all(check.equal for check in checks),
                    "checks": [str(check) for check in checks],
                }
            )
            if not as_json:
                click.echo("\n".join([f"{name}, {shape}", *(f"  {check}" for check in checks)]))
    if as_json:
        print_json(rows)
    if not all(row["equal"] for row in rows):
        raise Differs(f"{crosscheck.PROGRAM} measures another value", hint="one of the two is wrong")


def _shapes(vcpus: str | None, memory: str | None) -> tuple[Shape, ...]:
    if vcpus is None and memory is None:
        return ()
    if vcpus is None or memory is None:
        raise UsageError("a shape needs both --vcpus and --memory")
    return shapes_of(vcpus, memory)


def _matrix_row(shape: MeasuredLaunch, *, events: bool) -> dict[str, Any]:
    """One shape of a matrix: values and evidence, and the events when they are asked for."""
    row: dict[str, Any] = {
        "platform": shape.platform,
        **shape.machine.to_dict(),
        "mrtd": dict(zip(("single_pass", "two_pass"), (value.hex() for value in shape.accepted(MRTD)), strict=False)),
    }
    row.update({register: shape.accepted(register)[0].hex() for register in RTMRS})
    row["evidence"] = {register: level.value for register, level in shape.evidence().items()}
    if events:
        row["events"] = [event.to_dict() for event in shape.events]
    return row


def _show(shape: MeasuredLaunch, *, events: bool) -> None:
    click.echo(shape.label)
    for register in TDX_REGISTERS:
        name = register
        for number, value in enumerate(shape.accepted(register)):
            note = ("single-pass", "two-pass")[number] if register == MRTD else _weakest(shape, register)
            click.echo(f"  {name}  {value.hex()}  {shape.evidence()[register].value}  {note}".rstrip())
        if events:
            for event in shape.of(register):
                click.echo(
                    f"    {event.digest.hex()[:24]}..  {event.evidence.value:9}  {event.origin}{seen_words(event)}"
                )


def _weakest(shape: MeasuredLaunch, register: str) -> str:
    """Which events keep a register at its level: how many of them, and the first."""
    events = shape.of(register)
    weakest = [event for event in events if event.evidence is shape.evidence()[register]]
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
                booted = bench.boot(bench.launch(shape, boot_disk=boot_disk))
            machine = {"platform": bench.platform.name, "vcpus": shape.vcpus, "memory": shape.memory}
            rows.append({**machine, **booted.to_dict()})
            problems += [f"{shape}: {problem}" for problem in booted.problems()]
            if not as_json:
                _show_boot(shape, booted)
    if as_json:
        print_json(rows if len(shapes) > 1 else rows[0])
    if problems:
        raise Differs("\n".join(problems), hint="the first difference says which input to look at")
    click.echo("the log is the prediction, event by event, and the TPM's registers are the log's", err=as_json)


def _show_boot(shape: Shape, booted: ComparedBoot) -> None:
    click.echo(str(shape))
    for register, count in booted.comparison.matched.items():
        missing = sum(one.register == register and one.predicted is not None for one in booted.comparison.differences)
        click.echo(f"  {register}: {count} of {count + missing} predicted events are in the log")
    for difference in booted.comparison.differences:
        click.echo(f"  {difference.text()}")
    total = sum(booted.account.used.values())
    click.echo(f"  from a TD it differs in {total} events, each by one of {len(booted.account.used)} rules")
    for difference in booted.account.unexplained:
        click.echo(f"  no rule: {difference.text()}")
