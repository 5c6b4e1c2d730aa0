"""What verbs share: where things are, and what a TARGET names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from privml.base.errors import InputsError, RecipeError, UsageError
from privml.image import madeby
from privml.image.bootstrap import tools_tree
from privml.image.tools import ToolsTree
from privml.lock.make import check, current_inputs
from privml.lock.models import Lock, own_tools_lock, read_lock, read_tools_lock
from privml.lock.trees import images_folder
from privml.output import manifest
from privml.recipe.finding import RecipeProblems
from privml.recipe.guestfiles import GuestFile, errors, lint_guest
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, find, load, shipped
from privml.store.objects import Store
from privml.store.pools import Pool


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


def check_output(directory: Path) -> None:
    """``UsageError`` when something is there that no build has made: a build replaces its output whole."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    path = directory / "manifest.json"
    # Of any version, and even when it is damaged: what matters is whose folder it is.
    if not path.is_file() or b'"privml-manifest/' not in path.read_bytes():
        raise UsageError(
            f"{directory} is there and is no image that `image` made: it would be replaced, with all that it holds",
            hint="give a new or empty folder with --output, or remove it yourself",
        )


@dataclass
class Workplace:
    """The store, the tools tree and locks, opened when first needed."""

    pools: Sequence[Pool] = ()
    # A lock to build by instead of the recipe's own.
    lock_file: Path | None = None
    _trees: dict[Path, ToolsTree] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        """The content-addressed store."""
        return Store()

    def tools(self, recipe: Path | None = None) -> ToolsTree:
        """The locked tools tree, fetched and unpacked when it is not there, and looked at once."""
        return self._tree(tools_lock_path(recipe or shipped() / "any.yaml", self.lock_file))

    def tools_of(self, target: Target) -> ToolsTree:
        """The tools that the target's image was built with, which are also those that run and measure it.

        They are named beside the image. One without that record is taken for one of the committed tools lock, unless
        its manifest says otherwise: then ``InputsError``.
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
        if wrong := errors([*lint(recipe), *lint_guest(guest_files(images_folder()))]):
            raise RecipeProblems(wrong, hint=f"why: `privml-build lint --explain {wrong[0].rule}`")
        lock_path = self.lock_file or recipe.lock_path
        if self.lock_file is not None and not self.lock_file.is_file():
            raise InputsError(
                f"{self.lock_file} is not there",
                hint=f"make it with `privml-build lock {recipe.name} --refresh-to {self.lock_file}`",
            )
        lock = read_lock(lock_path)
        check(
            recipe,
            lock,
            current_inputs(recipe, images_folder(), tools_lock_path(path, self.lock_file)),
            path=lock_path,
        )
        return recipe, lock

    def is_refreshed(self, recipe: Recipe, lock: Lock) -> bool:
        """True when ``lock`` is not the one that the recipe is committed with."""
        if self.lock_file is None:
            return False
        return not recipe.lock_path.is_file() or read_lock(recipe.lock_path) != lock


def guest_files(images: Path) -> dict[str, GuestFile]:
    """The guest's own files below ``images``, as ``lint_guest`` takes them."""
    found = {}
    for path in sorted(images.rglob("*")):
        name = path.relative_to(images).as_posix()
        if path.is_symlink():
            found[name] = GuestFile(os.fsencode(path.readlink()), link=True)
        elif path.is_file() and "__pycache__" not in path.relative_to(images).parts[:-1]:
            found[name] = GuestFile(path.read_bytes(), path.stat().st_mode & 0o7777)
    return found


def tools_lock_path(recipe: Path, lock_file: Path | None = None) -> Path:
    """The tools lock that belongs to a lock: its own when it has one, else the recipe's, else the shipped one."""
    if lock_file is not None and (own := own_tools_lock(lock_file)).is_file():
        return own
    beside = recipe.with_name("tools.lock.json")
    return beside if beside.is_file() else shipped() / "tools.lock.json"


def refresh_hint(name: str, verb: str) -> str:
    """What to do when inputs of recipe ``name`` are gone: the command that replaces them, then ``verb`` by that."""
    elsewhere = f"out/locks/{name}.lock.json"
    return (
        "replace only what is gone, and go on by that: "
        f"`privml-build lock {name} --refresh-to {elsewhere}`, then `privml-build {verb} {name} --lock {elsewhere}`"
    )


def recipes_directory(target: Target) -> Path:
    """The directory whose ``platforms`` describe the target's machines: that of its recipe, else the shipped one."""
    if target.recipe is not None:
        return target.recipe.parent
    try:
        return find(target.manifest().name).parent
    except RecipeError:
        return shipped()
