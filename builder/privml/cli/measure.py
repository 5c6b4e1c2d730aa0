"""`measure`: say what a file measures to; for an image, `measure_image`."""

from __future__ import annotations

from pathlib import Path

import click

from privml.base.errors import MeasurementError, UsageError
from privml.cli.output import print_json
from privml.events.event import Event, seen_words
from privml.events.types import type_name
from privml.measure.description import Description
from privml.readers import files, source


@click.command()
@click.argument("target")
@click.option("--vcpus", metavar="N", help="Other shapes than the recipe's: processors, as in 2 or 1,2,4 or 1..64.")
@click.option("--memory", metavar="SIZE", help="Their memory, as in 4GiB or 2GiB,2815MiB or 2GiB..512GiB (doubling).")
@click.option("--boot", is_flag=True, help="Boot it under generic OVMF and swtpm, and compare event by event.")
@click.option("--disk", is_flag=True, help="With --boot: start the UKI from a disk that is made for it.")
@click.option("--replay", type=click.Path(path_type=Path), help="Hold it against this `capture` of a real TD.")
@click.option("--cross-check", is_flag=True, help="Let `tdx-measure` (of others, on PATH) measure the same machines.")
@click.option("--events", is_flag=True, help="List every event with its origin and evidence.")
@click.option("--json", "as_json", is_flag=True, help="Print predicate v1 (or the comparison) as JSON.")
def measure(
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
    """Predict MRTD and RTMR0..3 of TARGET for its platforms and shapes, and write prediction.json beside it.

    TARGET may also be a file (`-`: standard input): TDX firmware, a PE image, kernel or UKI, a GPT disk, a CCEL or
    TPM log, a quote, TDREPORT, JSON with them, or ACPI and SMBIOS blobs of fw_cfg; compressed or as text too. Then
    say what it is and what it measures to.

    Every event says how its rule is known: `hardware` (a real TD's log or quote shows it), `tpm-boot` (real
    firmware under a software TPM), `source` (read, not seen). The weakest of a register is shown with its value.

    \b
    privml-build measure demo-cpu
    privml-build measure demo-cpu --events
    privml-build measure demo-cpu --boot
    privml-build measure demo-cpu --boot --disk --vcpus 1,4 --memory 2815MiB
    privml-build measure demo-cpu --vcpus 1..64 --memory 2GiB..64GiB --json
    privml-build measure out/demo-cpu --replay my-td.tar
    privml-build measure OVMF.fd
    """
    is_file = source.is_readable(Path(target))
    if disk and not boot:
        raise UsageError("--disk is for --boot")
    if cross_check and (boot or replay is not None or is_file):
        raise UsageError("--cross-check is for an image's prediction: no file, --boot or --replay")
    if replay is not None and (boot or vcpus is not None or memory is not None):
        raise UsageError("--replay takes the machine from the capture: no --boot, --vcpus or --memory")
    if is_file and Path(target).suffix not in (".yaml", ".yml"):
        if boot or vcpus is not None or memory is not None or replay is not None:
            raise UsageError(f"{target} is a file: --boot, --replay, --vcpus and --memory are for images")
        _file(files.read(Path(target)).description, events=events, as_json=as_json)
        return
    # What an image needs (locks, QEMU) takes longer to load than a file takes to read.
    from privml.cli import measure_image

    measure_image.measure_image(
        target,
        vcpus=vcpus,
        memory=memory,
        boot=boot,
        disk=disk,
        replay=replay,
        cross_check=cross_check,
        events=events,
        as_json=as_json,
    )


def _file(description: Description, *, events: bool, as_json: bool) -> None:
    if as_json:
        print_json(description.to_dict())
    else:
        _show(description, events=events)
    if description.records:
        raise MeasurementError(description.notes[0], hint="`explain LOG` lists its events")


def _show(description: Description, *, events: bool) -> None:
    click.echo(description.title)
    for order, value in description.mrtd.items():
        click.echo(f"  mrtd   {value.hex()}  {'' if order == 'mrtd' else order.replace('_', '-')}".rstrip())
    for register, value in description.registers.items():
        click.echo(f"  {register}  {value.hex()}")
    for event in description.events:
        if not events and event.register in description.registers:
            continue
        click.echo(f"    {event.register}  {event.digest.hex()}  {_what(event)}")
    for record in description.records if events else ():
        click.echo(f"    {record.index:2}  {record.text()}")
    for name, text in description.facts.items():
        click.echo(f"  {name}: {text}")
    for note in description.notes:
        click.echo(f"  note: {note}")


def _what(event: Event) -> str:
    return f"{event.evidence.value:9}  {type_name(event.type)}  {event.origin}  {event.note}".rstrip() + seen_words(
        event
    )
