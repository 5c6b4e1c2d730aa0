"""Resolve a TARGET argument: a recipe, or the directory of a built image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, RecipeError, UsageError
from privml.output import manifest
from privml.recipe.loader import find, is_recipe, shipped
from privml.recipe.names import is_file_name, name_of

OUT = Path("out")
"""The directory of built images, below the current one."""


@dataclass(frozen=True)
class Target:
    """A resolved TARGET: its recipe (unless a directory was named) and the directory of its image."""

    recipe: Path | None
    directory: Path

    def manifest(self) -> manifest.Manifest:
        """The manifest of the built image; ``BuildError`` if it is not built yet."""
        try:
            return manifest.read(self.directory)
        except BuildError as error:
            if self.recipe is not None and error.hint is not None:
                error.hint = error.hint.replace("NAME", name_of(self.recipe))
            raise


def resolve(text: str, output: Path | None = None) -> Target:
    """Resolve a recipe name, a recipe path or an output directory."""
    path = Path(text)
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            raise UsageError(
                f"`{text}` is a directory without a manifest.json: not an image",
                hint="give a recipe name, a recipe file, or the directory of a built image",
            )
        return Target(None, path)
    if "/" in text and not is_file_name(text):
        _refuse_path(text, path)
    try:
        recipe = find(text)
    except RecipeError as error:
        if "/" in text or is_file_name(text):
            raise
        if path.exists():
            _refuse_path(text, path)
        raise RecipeError(f"{error.message}, and no file or directory of that name", hint=error.hint) from error
    name = name_of(recipe)
    return Target(recipe, output or OUT / name)


def _refuse_path(text: str, path: Path) -> None:
    """Raise ``UsageError`` for a path that is neither a directory nor a recipe, saying what is there."""
    if not path.exists():
        hint = "give a recipe's name, or a path that exists; `privml-build init NAME` starts a recipe"
        if path.parent == OUT and _is_recipe_name(path.name):
            hint = f"build it with `privml-build image {path.name}`"
        raise UsageError(f"there is no file or directory `{text}`", hint=hint)
    if path.is_file() and not is_recipe(path):
        raise UsageError(
            f"`{text}` is a file, but neither a recipe nor the directory of an image",
            hint=f"`privml-build measure {text}` says what that file is",
        )
    if not path.is_file():
        kind = "a device" if path.is_char_device() or path.is_block_device() else "a pipe or socket"
        raise UsageError(f"`{text}` is {kind}, not a file or directory")


def _is_recipe_name(name: str) -> bool:
    try:
        find(name)
    except RecipeError:
        return False
    return True


def check_output(directory: Path) -> None:
    """Refuse to overwrite a directory that `image` did not make, because a build replaces all of it."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    path = directory / "manifest.json"
    # A manifest of any version, even a damaged one, shows that `image` created the directory.
    if not path.is_file() or b'"privml-manifest/' not in path.read_bytes():
        raise UsageError(
            f"{directory} exists but was not created by `image`; a build would replace all of it",
            hint="name a new or empty directory with --output, or remove this one yourself",
        )


def recipes_directory(target: Target) -> Path:
    """The directory with the ``platforms`` of the target: that of its recipe, else the shipped one."""
    if target.recipe is not None:
        return target.recipe.parent
    try:
        return find(target.manifest().name).parent
    except RecipeError:
        return shipped()
