"""The workplace of a command: the store, the tools tree, and recipes with their locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from privml.base.errors import InputsError
from privml.image import madeby
from privml.image.bootstrap import tools_tree
from privml.image.target import Target
from privml.image.tools import ToolsTree
from privml.lock.locate import inputs_now, tools_lock_path
from privml.lock.lockfile import read_lock, read_tools_lock
from privml.lock.make import check
from privml.lock.models import Lock
from privml.lock.trees import images_folder
from privml.recipe.finding import RecipeProblems
from privml.recipe.guestfiles import errors, lint_guest, read_guest
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load
from privml.store.objects import Store
from privml.store.pools import Pool


@dataclass
class Workplace:
    """The store, the tools tree and the locks, opened on first use."""

    pools: Sequence[Pool] = ()
    # A lock to use instead of the recipe's own.
    lock_file: Path | None = None
    _trees: dict[Path, ToolsTree] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        """The content-addressed store."""
        return Store()

    def tools(self, recipe: Path | None = None) -> ToolsTree:
        """The tools tree named by the recipe's lock, fetched and unpacked if needed."""
        return self._tree(tools_lock_path(recipe, self.lock_file))

    def tools_of(self, target: Target) -> ToolsTree:
        """The tools the target's image was built with, which are also used to run and measure it.

        They are named by the locks next to the image. An image without locks was built with the committed ones;
        ``InputsError`` if its manifest says `refreshed`.
        """
        found = target.manifest()
        made = madeby.read(target.directory, found)
        if made is not None:
            return self._tree(made.tools_path)
        if found.refreshed:
            raise InputsError(
                f"{target.directory} was not built with the committed lock, and its own lock is missing",
                hint=f"copy {found.name}.lock.json and {found.name}.tools.lock.json next to it, or build it again",
            )
        return self.tools(target.recipe)

    def _tree(self, path: Path) -> ToolsTree:
        if path not in self._trees:
            self._trees[path] = tools_tree(self.store, read_tools_lock(path), self.pools)
        return self._trees[path]

    def recipe_and_lock(self, path: Path) -> tuple[Recipe, Lock]:
        """Load a recipe with its lock; ``RecipeError`` if a rule is broken, ``InputsError`` if the lock is stale."""
        recipe = load(path)
        if wrong := errors([*lint(recipe), *lint_guest(read_guest(images_folder()))]):
            raise RecipeProblems(wrong, hint=f"why: `privml-build lint --explain {wrong[0].rule}`")
        lock_path = self.lock_file or recipe.lock_path
        if self.lock_file is not None and not self.lock_file.is_file():
            raise InputsError(
                f"{self.lock_file} does not exist",
                hint=f"create it with `privml-build lock {recipe.name} --refresh-to {self.lock_file}`",
            )
        lock = read_lock(lock_path)
        check(recipe, lock, inputs_now(recipe, tools_lock_path(path, self.lock_file)), path=lock_path)
        return recipe, lock

    def is_refreshed(self, recipe: Recipe, lock: Lock) -> bool:
        """True if ``lock`` is not the recipe's committed lock."""
        if self.lock_file is None:
            return False
        return not recipe.lock_path.is_file() or read_lock(recipe.lock_path) != lock
