"""Find locks: next to their recipe, next to a refreshed lock, or shipped with privml-build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from privml.lock.lockfile import own_tools_lock, read_any_lock, read_lock, read_tools_lock
from privml.lock.make import Current, current_inputs
from privml.lock.models import Lock, ToolsLock
from privml.lock.trees import images_folder
from privml.recipe.loader import Recipe, find, load, shipped


def tools_lock_path(recipe: Path | None, lock_file: Path | None = None) -> Path:
    """The tools lock of a lock: its own when it has one, else the one next to the recipe, else the shipped one."""
    if lock_file is not None and (own := own_tools_lock(lock_file)).is_file():
        return own
    beside = None if recipe is None else recipe.with_name("tools.lock.json")
    return beside if beside is not None and beside.is_file() else shipped() / "tools.lock.json"


def inputs_now(recipe: Recipe, tools_lock: Path | None = None) -> Current:
    """The checkout state that a lock of ``recipe`` records; ``tools_lock`` if it is not the recipe's own."""
    return current_inputs(recipe, images_folder(), tools_lock or tools_lock_path(recipe.path))


def locks_of(target: str) -> list[Lock | ToolsLock]:
    """The locks needed to build TARGET: those of a recipe, or a lock file with its tools lock."""
    if target.endswith(".lock.json"):
        path = Path(target)
        first = read_any_lock(path)
        return [first] if isinstance(first, ToolsLock) else [first, read_tools_lock(tools_lock_path(path, path))]
    recipe = load(find(target))
    return [read_lock(recipe.lock_path), read_tools_lock(tools_lock_path(recipe.path))]


def folder_of(target: str) -> Path:
    """The folder of TARGET, a recipe or a lock file, which models may be next to."""
    return Path(target).parent if target.endswith(".lock.json") else find(target).parent


def recipe_locks(folder: Path) -> Iterator[Path]:
    """The locks of recipes in ``folder``, without the tools lock."""
    return (path for path in sorted(folder.glob("*.lock.json")) if path.name != "tools.lock.json")


def known_locks() -> list[Path]:
    """Every lock in `recipes/`, the current directory, the directories of `out/`, and the shipped ones."""
    folders = (Path("recipes"), Path(), *Path("out").glob("*"), shipped())
    return sorted({path.resolve() for folder in folders for path in folder.glob("*.lock.json")})
