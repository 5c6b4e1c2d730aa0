"""`publish check` and `publish site`: the verbs that read what is published, and need no key."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click

from privml.base.errors import Refused
from privml.cli.output import print_json, show
from privml.output.repository import MEASUREMENTS
from privml.publish import check as gate
from privml.publish import site as pages

folder_option = click.option(
    "--in",
    "folder",
    metavar="DIR",
    default=MEASUREMENTS,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the published measurements.",
)


@click.command()
@click.argument("folder", metavar="[DIR]", default=MEASUREMENTS, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--against",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The same folder as it was: what was published must be there unchanged, and nothing go back.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(folder: Path, *, against: Path | None, as_json: bool) -> None:
    """Check everything in DIR: signatures, digests, states, dates, and that nothing is left over. A gate for CI.

    Exit status: 0 all is right, 8 something is wrong, 9 DIR is not a repository. What ends within 14 days is a
    warning.

    \b
    Examples:
      privml-build publish check
      privml-build publish check measurements --against /tmp/base/measurements
    """
    found = gate.check(folder, int(time.time()), against)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        for line in found.soon:
            show(f"warning: {line}", err=True)
        show(*found.wrong)
        if not found.wrong:
            show(f"{folder}: {found.versions} versions and {found.files} files are as they were signed")
        if found.demonstration:
            show("a demonstration: one person made all keys")
    if found.wrong:
        raise Refused(f"{folder}: {len(found.wrong)} findings, expected none")


@click.command()
@click.argument("target", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print the written paths as JSON.")
def site(target: Path, *, folder: Path, as_json: bool) -> None:
    """Write a static site into DIR: images, versions, states, registers, what changed, who rebuilt what.

    Its pages have no script and load nothing from elsewhere; any web server can serve them, and equal measurements
    give equal bytes. The repository is followed from its first root and checked as by `publish check` before anything
    is written. An earlier site in DIR is replaced. Exit status: 8 something is not as it was signed.

    \b
    Examples:
      privml-build publish site public
    """
    files = pages.site(folder)
    pages.write(files, target)
    if as_json:
        print_json({"directory": str(target), "written": sorted(files)})
    else:
        show(f"{target}: {sum(path.endswith('.html') for path in files)} pages, {len(files)} files")
