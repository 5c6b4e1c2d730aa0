"""`init`: start a new recipe."""

from __future__ import annotations

import re
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.cli.output import show
from privml.lock.start import start
from privml.recipe.loader import examples, find, load
from privml.recipe.names import named

_DEFAULT = "demo-cpu"
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")


@click.command()
@click.argument("name")
@click.option("--from", "source", metavar="RECIPE", help=f"The recipe to copy.  [default: {_DEFAULT}]")
@click.option("--example", type=click.Choice(sorted(examples())), help="Start from this example instead.")
def init(name: str, *, source: str | None, example: str | None) -> None:
    """Write recipes/NAME.yaml, a copy of another recipe with a comment for each field.

    Also written, unless there already: its platforms, its lock, the files that it adds, the lock of the tools, JSON
    Schemas for editors, and a CI workflow. Nothing is fetched.

    \b
    Examples:
      privml-build init my-image
      privml-build init my-image --from demo-cpu-dev
      privml-build init my-image --example service
    """
    if source is not None and example is not None:
        raise UsageError("--from and --example both name what to start from", hint="give one of them")
    if name == "tools":
        raise UsageError("a recipe cannot be named `tools`: tools.lock.json is the lock of the build tools")
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise UsageError(
            f"`{name}` is not a valid recipe name",
            hint="use at most 64 lower-case letters and digits, with `-` or `.` between them",
        )
    folder = Path("recipes")
    if folder.exists() and not folder.is_dir():
        raise UsageError("`recipes` is a file, expected a folder", hint="run `init` in another folder")
    path = folder / f"{name}.yaml"
    if (there := named(folder, name)) is not None:
        raise UsageError(f"{there} already exists", hint="choose another name, or edit that file")
    origin = load(find(source or _DEFAULT) if example is None else examples()[example])
    for remark in start(name, origin, folder, lambda done, file: show(f"{done} {file}")):
        show(remark, err=True)
    show(f"next: edit {path}, then `privml-build lock {name}` and `privml-build image {name}`", err=True)
