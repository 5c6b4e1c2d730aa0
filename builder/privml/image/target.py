"""What a TARGET names: a recipe, or the directory of a built image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import RecipeError, UsageError
from privml.output import manifest
from privml.recipe.loader import find, shipped


@dataclass(frozen=True)
class Target:
    """A resolved TARGET: its recipe unless a directory was named, and where its image is or will be."""

    recipe: Path | None
    directory: Path

    def manifest(self) -> manifest.Manifest:
        """The built image's manifest; ``BuildError`` when there is no image yet."""
        return manifest.read(self.directory)


def resolve(text: str, output: Path | None = None) -> Target:
    """Find what a recipe name, a recipe path or an output directory stands for."""
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
    """Refuse to overwrite a directory that `image` did not make, because a build replaces all of it."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    path = directory / "manifest.json"
    # Of any version, and even when it is damaged: what matters is who made the directory.
    if not path.is_file() or b'"privml-manifest/' not in path.read_bytes():
        raise UsageError(
            f"{directory} is there and is no image that `image` made: it would be replaced, with all that it holds",
            hint="give a new or empty folder with --output, or remove it yourself",
        )


def recipes_directory(target: Target) -> Path:
    """The directory whose ``platforms`` describe the target's machines: that of its recipe, else the shipped one."""
    if target.recipe is not None:
        return target.recipe.parent
    try:
        return find(target.manifest().name).parent
    except RecipeError:
        return shipped()
