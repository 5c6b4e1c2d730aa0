"""Create a recipe from another one, with everything needed to build it from an empty directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import InputsError, UsageError
from privml.base.files import write_atomic
from privml.lock.apttools import AptTools
from privml.lock.locate import inputs_now, recipe_locks, tools_lock_path
from privml.lock.lockfile import read_lock, write_lock
from privml.lock.make import make_lock
from privml.lock.solver import Solver
from privml.recipe import schema, starter
from privml.recipe.distributions import Distribution
from privml.recipe.loader import Recipe, is_shipped, load, platform_path, platforms_of, shipped
from privml.recipe.modelsource import Local
from privml.recipe.packages import models_in
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
        _keep(
            folder / f"platforms/{platform.name}.yaml",
            platform_path(platform.name, origin.path.parent).read_bytes(),
            report,
        )
    for file, body in schema.files().items():
        _put(folder / "schemas" / file, body, report)
    workflow = Path(starter.WORKFLOW_PATH)
    if not _keep(workflow, starter.workflow(name).encode(), report):
        remarks.append(f"add {name} to RECIPES in {workflow}")
    remarks += _own_files(origin, folder, report)
    remarks += [f"name addresses of the archive `{label}` in mirrors.yaml" for label in origin.content.archives]
    path = folder / f"{name}.yaml"
    _put(path, starter.commented(origin.content, origin.name).encode(), report)
    try:
        recipe = load(path)
        _lock(recipe, origin)
        report("wrote", recipe.lock_path)
    except InputsError as error:
        remarks.append(f"no lock written: {error.message}")
    return remarks


def _own_files(origin: Recipe, folder: Path, report: Report) -> list[str]:
    """Copy the files that ``origin`` reads from its folder; returns remarks about models and data, often large."""
    source = origin.path.parent
    if source.resolve() == folder.resolve():
        return []
    content = origin.content
    files = [added.source for added in content.files.values()]
    keyrings = [archive.keyring for archive in content.archives.values()]
    for given in (*files, *keyrings, *content.local_packages):
        place = source / given
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if not path.resolve().is_relative_to(source.resolve()):
                raise UsageError(f"`{given}` leads outside {source}", hint="copy the files yourself")
            if path.is_symlink() or path.is_file():
                _copy(path, folder / path.relative_to(source), report)
    models = [model.origin for model in models_in(origin)]
    return [
        f"copy the model's {'folder' if each.folder else 'file'} {each.path} into {folder}"
        for each in models
        if isinstance(each, Local)
    ] + [f"copy the data {data.origin.path} into {folder}" for data in content.data]


def _copy(source: Path, target: Path, report: Report) -> None:
    if target.is_symlink() or target.exists():
        report("kept", target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target, follow_symlinks=False)
    report("wrote", target)


def _lock(recipe: Recipe, origin: Recipe) -> None:
    """Write the new recipe's lock with packages that are locked already; ``InputsError`` if others are needed.

    They are the origin's, or those of a shipped recipe, which are the same if the request is.
    """
    others = [] if origin.lock_path.is_file() or not is_shipped(origin.path) else sorted(recipe_locks(shipped()))
    last = InputsError(f"{origin.name} has no lock")
    for path in [origin.lock_path] if origin.lock_path.is_file() else others:
        try:
            made = make_lock(recipe, inputs_now(recipe), read_lock(path), Store(), Solver(tools=_offline))
        except InputsError as error:
            last = error
            continue
        write_lock(recipe.lock_path, made)
        return
    raise last


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
