"""`init`: start a recipe of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from privml.base.errors import InputsError, UsageError
from privml.base.files import write_atomic
from privml.cli.context import tools_lock_path
from privml.lock.apt import AptTools
from privml.lock.make import Solver, current_inputs, make_lock
from privml.lock.models import read_lock, write_lock
from privml.lock.trees import images_folder
from privml.recipe import schema, starter
from privml.recipe.distributions import Distribution
from privml.recipe.loader import Recipe, find, load, platforms_of, shipped
from privml.store.objects import Store

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
    origin = load(find(source))
    platforms = platforms_of(origin)
    folder.mkdir(exist_ok=True)
    _keep(folder / "tools.lock.json", tools_lock_path(origin.path).read_bytes())
    for platform in platforms:
        _keep(folder / f"platforms/{platform.name}.yaml", _platform_file(origin, platform.name).read_bytes())
    for file, body in schema.files().items():
        _put(folder / "schemas" / file, body)
    workflow = Path(starter.WORKFLOW_PATH)
    if not _keep(workflow, starter.workflow(name).encode()):
        click.echo(f"add {name} to RECIPES in {workflow}", err=True)
    _put(path, starter.commented(origin.content, origin.name).encode())
    _lock(load(path), origin)
    click.echo(f"next: edit {path}, then `privml-build lock {name}` and `privml-build image {name}`", err=True)


def _platform_file(origin: Recipe, name: str) -> Path:
    beside = origin.path.parent / "platforms" / f"{name}.yaml"
    return beside if beside.is_file() else shipped() / "platforms" / f"{name}.yaml"


def _lock(recipe: Recipe, origin: Recipe) -> None:
    """The origin's pins for the new recipe; no network, so where they do not fit, nothing is written."""
    if not origin.lock_path.is_file():
        click.echo(f"no lock: {origin.name} has none", err=True)
        return
    current = current_inputs(recipe, images_folder(), tools_lock_path(recipe.path))
    try:
        made = make_lock(recipe, current, read_lock(origin.lock_path), Store(), Solver(tools=_offline))
    except InputsError as error:
        click.echo(f"no lock: {error.message}", err=True)
        return
    write_lock(recipe.lock_path, made)
    click.echo(f"wrote {recipe.lock_path}")


def _offline(_: Distribution) -> AptTools:
    raise InputsError("the lock that it comes from names other packages than are needed now")


def _keep(path: Path, body: bytes) -> bool:
    """Write a file that is not there yet; whether it was written."""
    if path.exists():
        click.echo(f"kept {path}")
        return False
    _put(path, body)
    return True


def _put(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, body)
    click.echo(f"wrote {path}")
