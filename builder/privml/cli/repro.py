"""`repro`: build twice in different surroundings, and compare."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from privml.base.errors import Differs, UsageError
from privml.base.files import directory_atomic, locked, write_atomic
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show, show_text
from privml.cli.volumekeys import key_options
from privml.image import madeby
from privml.image.target import check_output, resolve
from privml.image.volumekeys import Given, VolumeKeys
from privml.image.workplace import Workplace
from privml.lock.refresh import refresh_hint
from privml.output import manifest as manifests
from privml.repro import current, external
from privml.repro.inputs import inputs_of
from privml.repro.layers import Layer, Report
from privml.repro.page import page
from privml.repro.rebuilt import bring, rebuilt
from privml.repro.variations import Variation
from privml.store.fetch import GoneError

_SHOWN = 20


@click.command()
@click.argument("target", type=TARGET)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the report as a web page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep both images, as DIR/a and DIR/b. An interrupted run goes on with the leg that it left there.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="When they are equal, keep one of them here.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="When they are equal, write the digests to this file.",
)
@click.option(
    "--lock", "lock_file", type=click.Path(path_type=Path), help="Build from this lock, made by `lock --refresh-to`."
)
@key_options
@click.option("--diffoscope", is_flag=True, help="Run diffoscope, which must be installed, on files that differ.")
def repro(
    target: str,
    *,
    html: Path | None,
    as_json: bool,
    keep: Path | None,
    output: Path | None,
    record: Path | None,
    lock_file: Path | None,
    key_files: tuple[Path, ...],
    volumes: Path | None,
    diffoscope: bool,
) -> None:
    """Build TARGET twice from its lock, in surroundings as different as this machine allows, and compare the images.

    TARGET is a recipe's name or file, or the directory of an image. A directory is rebuilt from the locks in it, and
    the two rebuilds must also equal the image that is there.

    Exit status: 0 when they are equal bit for bit, 1 when they differ, 4 when inputs are gone. Each difference is
    reported with its layer, its likely cause and how to fix it. What could not be varied is reported as `not varied`,
    with the reason. The digests are compared with measurements/NAME/current.json, unless the lock is a refreshed one.

    Encrypted volumes need their keys, or --volumes DIR: both images then have the ciphertext of the image in DIR, and
    the report says that it was given and not made.

    \b
    Examples:
      privml-build repro demo-cpu
      privml-build repro out/demo-cpu
      privml-build repro demo-cpu --html repro.html
      privml-build repro demo-cpu --record measurements/demo-cpu/current.json
      privml-build repro demo-cpu --lock out/locks/demo-cpu.lock.json
      privml-build repro out/my-image --volumes out/my-image
    """
    found = resolve(target)
    if found.recipe is None and lock_file is not None:
        raise UsageError(f"`{target}` is a built image, which has its own locks", hint="leave out --lock")
    if output is not None:
        check_output(output)
    place = Workplace(lock_file=lock_file)
    look = external.diffoscope() if diffoscope else None
    recipe, lock, inputs = inputs_of(place, found, VolumeKeys.read(key_files, volumes))
    given = inputs.volumes.given_of(recipe)
    if inputs.refreshed and record is not None:
        raise UsageError(
            "--record needs an image built from the committed lock, and this one is refreshed",
            hint="leave out --record",
        )
    try:
        tools = bring(place, recipe, lock, inputs)
    except GoneError as gone:
        if as_json:
            print_json({"outcome": "inputs-gone", "gone": sorted(item.name for item in gone.items)})
        gone.hint = refresh_hint(recipe.name, "repro")
        raise
    with rebuilt(place, recipe, lock, inputs, tools, keep=keep, look=look) as (legs, report):
        digests = current.of(legs.a) if report.equal else None
        if output is not None and report.equal:
            with locked(output.absolute().parent / f".{output.name}.lock"), directory_atomic(output) as fresh:
                shutil.copytree(legs.a, fresh, dirs_exist_ok=True)
                madeby.keep(fresh, manifests.read(fresh), lock, inputs.tools_lock)
    if inputs.refreshed:
        show("refreshed: both images are built from a lock that is not the committed one", err=True)
    if record is not None and digests is not None:
        write_atomic(record, digests)
    state = None if digests is None else current.record_of(recipe.name, digests, refreshed=inputs.refreshed)
    show_report(
        f"privml-build repro {recipe.name}", report, legs.variations, html=html, as_json=as_json,
        refreshed=inputs.refreshed, record=state, given=given,
    )  # fmt: skip
    if found.recipe is None and digests and (others := current.differences(current.of(found.directory), digests)):
        lines = "\n".join(f"  {line}" for line in others)
        raise Differs(f"the two rebuilds are equal, but {found.directory} differs from them:\n{lines}")


def show_report(
    title: str,
    report: Report,
    variations: Sequence[Variation],
    *,
    html: Path | None,
    as_json: bool,
    refreshed: bool = False,
    record: current.RecordCheck | None = None,
    given: Sequence[Given] = (),
) -> None:
    """Print the report; ``Differs`` when there is a difference.

    ``given`` are the encrypted volumes that both images have from another one.
    """
    if html is not None:
        write_atomic(html, page(title, report, variations, record.text() if record else "").encode())
    if as_json:
        print_json(
            {
                **report.to_dict(),
                "outcome": "differs" if not report.equal else "refreshed" if refreshed else "equal",
                "refreshed": refreshed,
                "record": None if record is None else record.to_dict(),
                "variations": [variation.to_dict() for variation in variations],
                **({"given": [each.to_dict() for each in given]} if given else {}),
            }
        )
    else:
        for each in given:
            show(each.text())
        for variation in variations:
            show(variation.text())
        for layer in Layer:
            number = sum(finding.layer is layer for finding in report.findings)
            show(f"{layer.title}: {report.compared.get(layer, 0)} compared, {number} differ")
        for finding in report.findings[:_SHOWN]:
            show_text(finding.text())
        for name, (one, two) in sorted(report.digests.items()):
            show(f"{one}  {name}" if one == two else f"{one} | {two}  {name}")
        if record is not None:
            show_text(record.text())
    if report.first is not None and report.reason is not None:
        if not as_json:
            show(f"look here first: {report.reason.text()}")
        number = len(report.findings)
        named = ", ".join(f"{name} ({count})" for name, count in report.causes()[:5])
        raise Differs(
            f"the images differ: first in {report.first.title}; {number} differences; causes: {named}",
            hint=None if number <= _SHOWN or as_json else "--json and --html show all of them",
        )
    if not report.equal:
        raise Differs("nothing was compared")
    but = f"; {', '.join(each.entry.volume for each in given)} was given, not made" if given else ""
    show(f"the images are equal, bit for bit{but}", err=as_json)
