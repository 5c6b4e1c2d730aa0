"""What verbs share: where things are, and what a TARGET names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from privml.base.errors import UsageError
from privml.base.steps import step
from privml.cli.lock import tools_lock_path
from privml.image import manifest
from privml.image.tools import ToolsTree, ensure
from privml.lock.make import bring, check, current_inputs
from privml.lock.models import Lock, read_lock, read_tools_lock
from privml.lock.trees import images_folder
from privml.recipe.loader import Recipe, find, load, shipped
from privml.store.objects import Store


@dataclass(frozen=True)
class Target:
    """A TARGET resolved: a recipe when it names one, and the directory where its image is or will be."""

    recipe: Path | None
    directory: Path

    def manifest(self) -> manifest.Manifest:
        """The built image's manifest; ``BuildError`` when there is no image yet."""
        return manifest.read(self.directory)


def resolve(text: str, output: Path | None = None) -> Target:
    """A recipe name, a recipe path or an output directory; the one place where a TARGET gets its meaning."""
    path = Path(text)
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            raise UsageError(
                f"`{text}` is a directory without a manifest.json: not an image",
                hint="give a recipe name, a recipe file, or the directory of a built image",
            )
        return Target(None, path)
    recipe = find(text)
    name = recipe.name.removesuffix(".yaml")
    return Target(recipe, output or Path("out") / name)


class Workplace:
    """The store, the tools tree and locks, opened when first needed."""

    @cached_property
    def store(self) -> Store:
        """The content-addressed store."""
        return Store()

    def tools(self, recipe: Path | None = None) -> ToolsTree:
        """The locked tools tree, fetched and unpacked when it is not there."""
        lock = read_tools_lock(tools_lock_path(recipe or shipped() / "any.yaml"))
        if any(not self.store.has(package.sha256) for package in lock.packages):
            with step(f"Fetching the tools ({len(lock.packages)} packages)"):
                bring(self.store, lock.packages)
        return ensure(self.store, lock)

    def recipe_and_lock(self, path: Path) -> tuple[Recipe, Lock]:
        """A recipe with its lock; ``InputsError`` when the lock is stale."""
        recipe = load(path)
        lock = read_lock(recipe.lock_path)
        check(recipe, lock, current_inputs(recipe, images_folder(), tools_lock_path(path)))
        return recipe, lock


def recipes_directory(target: Target) -> Path:
    """The directory whose ``platforms`` describe the target's machines."""
    return target.recipe.parent if target.recipe is not None else shipped()
