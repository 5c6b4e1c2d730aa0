"""Create a recipe from another one, with everything needed to build it from an empty directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import write_atomic
from privml.lock.apttools import AptTools
from privml.lock.locate import inputs_now, tools_lock_path
from privml.lock.lockfile import read_lock, write_lock
from privml.lock.make import Solver, make_lock
from privml.recipe import schema, starter
from privml.recipe.distributions import Distribution
from privml.recipe.loader import Recipe, load, platforms_of, shipped
from privml.store.objects import Store

Report = Callable[[str, Path], object]
"""Called with ``wrote`` or ``kept`` and the path of each file."""


def start(name: str, origin: Recipe, folder: Path, report: Report) -> list[str]:
    """Write the recipe ``name`` into ``folder``, based on ``origin``; returns remarks on what is left to do.

    Existing files are kept, except the schemas. No network is used: if the origin's packages do not fit the new
    recipe, no lock is written.
    """
    remarks = []
    platforms = platforms_of(origin)
    folder.mkdir(exist_ok=True)
    _keep(folder / "tools.lock.json", tools_lock_path(origin.path).read_bytes(), report)
    for platform in platforms:
        _keep(folder / f"platforms/{platform.name}.yaml", _platform_file(origin, platform.name).read_bytes(), report)
    for file, body in schema.files().items():
        _put(folder / "schemas" / file, body, report)
    workflow = Path(starter.WORKFLOW_PATH)
    if not _keep(workflow, starter.workflow(name).encode(), report):
        remarks.append(f"add {name} to RECIPES in {workflow}")
    path = folder / f"{name}.yaml"
    _put(path, starter.commented(origin.content, origin.name).encode(), report)
    try:
        recipe = load(path)
        _lock(recipe, origin)
        report("wrote", recipe.lock_path)
    except InputsError as error:
        remarks.append(f"no lock written: {error.message}")
    return remarks


def _platform_file(origin: Recipe, name: str) -> Path:
    beside = origin.path.parent / "platforms" / f"{name}.yaml"
    return beside if beside.is_file() else shipped() / "platforms" / f"{name}.yaml"


def _lock(recipe: Recipe, origin: Recipe) -> None:
    """Write the new recipe's lock with the origin's packages; ``InputsError`` if others are needed."""
    if not origin.lock_path.is_file():
        raise InputsError(f"{origin.name} has no lock")
    made = make_lock(recipe, inputs_now(recipe), read_lock(origin.lock_path), Store(), Solver(tools=_offline))
    write_lock(recipe.lock_path, made)


def _offline(_: Distribution) -> AptTools:
    raise InputsError("the lock of the original recipe does not have the packages needed now")


def _keep(path: Path, body: bytes, report: Report) -> bool:
    """Write a file if it does not exist; returns whether it was written."""
    if path.exists():
        report("kept", path)
        return False
    _put(path, body, report)
    return True


def _put(path: Path, body: bytes, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, body)
    report("wrote", path)
