"""What commands work with: the store, the tools tree, and a recipe with its lock."""

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
from privml.lock.make import check
from privml.lock.models import Lock, read_lock, read_tools_lock
from privml.lock.trees import images_folder
from privml.recipe.finding import RecipeProblems
from privml.recipe.guestfiles import errors, lint_guest, read_guest
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load
from privml.store.objects import Store
from privml.store.pools import Pool


@dataclass
class Workplace:
    """The store, the tools tree and locks, each opened when it is first needed."""

    pools: Sequence[Pool] = ()
    # A lock to build by instead of the recipe's own.
    lock_file: Path | None = None
    _trees: dict[Path, ToolsTree] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        """The content-addressed store."""
        return Store()

    def tools(self, recipe: Path | None = None) -> ToolsTree:
        """The tools tree that the recipe's lock names, fetched and unpacked when it is not there."""
        return self._tree(tools_lock_path(recipe, self.lock_file))

    def tools_of(self, target: Target) -> ToolsTree:
        """The tools that the target's image was built with, which also run and measure it.

        The locks next to the image name them. An image without locks was built by the committed ones, unless its
        manifest says `refreshed`: then ``InputsError``.
        """
        found = target.manifest()
        made = madeby.read(target.directory, found)
        if made is not None:
            return self._tree(made.tools_path)
        if found.refreshed:
            raise InputsError(
                f"{target.directory} was built by another lock than the committed one, and does not hold it",
                hint=f"bring its {found.name}.lock.json and {found.name}.tools.lock.json, or build it again",
            )
        return self.tools(target.recipe)

    def _tree(self, path: Path) -> ToolsTree:
        if path not in self._trees:
            self._trees[path] = tools_tree(self.store, read_tools_lock(path), self.pools)
        return self._trees[path]

    def recipe_and_lock(self, path: Path) -> tuple[Recipe, Lock]:
        """A recipe with its lock; ``RecipeError`` when a rule is broken, ``InputsError`` when the lock is stale."""
        recipe = load(path)
        if wrong := errors([*lint(recipe), *lint_guest(read_guest(images_folder()))]):
            raise RecipeProblems(wrong, hint=f"why: `privml-build lint --explain {wrong[0].rule}`")
        lock_path = self.lock_file or recipe.lock_path
        if self.lock_file is not None and not self.lock_file.is_file():
            raise InputsError(
                f"{self.lock_file} is not there",
                hint=f"make it with `privml-build lock {recipe.name} --refresh-to {self.lock_file}`",
            )
        lock = read_lock(lock_path)
        check(recipe, lock, inputs_now(recipe, tools_lock_path(path, self.lock_file)), path=lock_path)
        return recipe, lock

    def is_refreshed(self, recipe: Recipe, lock: Lock) -> bool:
        """True when ``lock`` is not the one that the recipe is committed with."""
        if self.lock_file is None:
            return False
        return not recipe.lock_path.is_file() or read_lock(recipe.lock_path) != lock
