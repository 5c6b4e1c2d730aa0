"""`init`: start a recipe of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.cli.output import show
from privml.lock.start import start
from privml.recipe.loader import find, load

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")


@click.command()
@click.argument("name")
@click.option("--from", "source", default="demo-cpu", show_default=True, help="The recipe to start from.")
def init(name: str, *, source: str) -> None:
    """Write recipes/NAME.yaml with a comment for each field, and what it needs to be built from here.

    That is its platforms, its lock with the packages of the recipe it comes from, the lock of the tools, a schema for
    editors, and a workflow for CI. Files that are there already stay as they are.

    \b
    privml-build init my-image
    privml-build init my-image --from demo-cpu-dev
    """
    if name == "tools":
        raise UsageError("`tools` is no name for a recipe: tools.lock.json is the lock of the tools")
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise UsageError(
            f"`{name}` is no name for a recipe",
            hint="use small letters, digits, and `-` or `.` between them; at most 64",
        )
    folder = Path("recipes")
    if folder.exists() and not folder.is_dir():
        raise UsageError("`recipes` is a file here, expected a folder or nothing", hint="start in another folder")
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} is there already", hint="take another name, or edit it")
    for remark in start(name, load(find(source)), folder, lambda done, file: show(f"{done} {file}")):
        show(remark, err=True)
    show(f"next: edit {path}, then `privml-build lock {name}` and `privml-build image {name}`", err=True)
