"""Names of recipe files: NAME.yaml or NAME.yml."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import RecipeError

SUFFIXES = (".yaml", ".yml")


def is_file_name(text: str) -> bool:
    """True if ``text`` ends as the name of a recipe file does."""
    return text.endswith(SUFFIXES)


def name_of(path: Path) -> str:
    """The recipe's name: the file's, without suffix."""
    return path.stem if is_file_name(path.name) else path.name


def named(folder: Path, name: str) -> Path | None:
    """The file of ``name`` in ``folder``; ``RecipeError`` if there are two."""
    found = next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)
    if found is not None:
        check_single(found)
    return found


def check_single(path: Path) -> None:
    """Raise ``RecipeError`` if the recipe at ``path`` has a second file: both would have one lock and one output."""
    both = [one for suffix in SUFFIXES if (one := path.with_name(f"{name_of(path)}{suffix}")).is_file()]
    if is_file_name(path.name) and len(both) > 1:
        raise RecipeError(f"there are both {' and '.join(map(str, both))}", hint="keep one of them")
