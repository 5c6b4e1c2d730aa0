"""Lock the data of a recipe: find the files of each next to the recipe, and digest them into the store.

All files below a folder count, by their paths there. Folders without a file are left out, as is the mode of a file:
a volume has plain files that everyone in the guest who reaches it may read.
"""

from __future__ import annotations

import os
from pathlib import Path

from privml.base.errors import InputsError, printable
from privml.base.files import sha256_file
from privml.lock.modelrecord import Data, LocalSource, ModelFile
from privml.lock.models import Lock
from privml.recipe.loader import Recipe
from privml.recipe.modelsource import Local
from privml.store.objects import Store

MAX_FILES = 10_000
"""The most files of one volume of data. A lock has a line for each."""


def data_of(recipe: Recipe, previous: Lock | None, store: Store) -> tuple[Data, ...]:
    """The recipe's data with its files. What is not there any more stays as in ``previous``."""
    found = []
    for number, data in enumerate(recipe.content.data):
        where = recipe.origin(f"data[{number}].source")
        source = LocalSource(local=data.origin.path)
        if not _is_there(recipe.path.parent, data.origin):
            same = next((old for old in (previous.data if previous else ()) if old.source == source), None)
            if same is None:
                kind = "folder" if data.origin.folder else "file"
                raise InputsError(
                    f"{where}: there is no {kind} {recipe.path.parent / source.local}",
                    hint="put it there; the path is relative to the recipe",
                )
            found.append(same.model_copy(update={"name": data.name}))
            continue
        files = []
        for name in names_at(recipe.path.parent / source.local, where):
            place = source.place_of(recipe.path.parent, name)
            digest = sha256_file(place)
            if not store.has(digest):
                store.add_file(place, expect=digest)
            files.append(ModelFile(path=name, size=store.path(digest).stat().st_size, sha256=digest))
        found.append(Data(name=data.name, source=source, files=tuple(files)))
    return tuple(found)


def changed(recipe: Recipe, lock: Lock) -> list[str]:
    """One line for each file of the data next to the recipe that is not as the lock names it."""
    seen = Store().seen
    lines = []
    for data in lock.data:
        folder, locked = recipe.path.parent, {file.path: file for file in data.files}
        if not _is_there(folder, Local(data.source.local)):
            continue
        try:
            now = dict.fromkeys(names_at(folder / data.source.local, f"data {data.name}"))
        except InputsError as error:
            lines.append(error.message)
            continue
        for name in sorted({*locked, *now}):
            if name not in now or name not in locked:
                what = "was removed" if name in locked else "is new"
                lines.append(f"data {data.name}: {name} {what} after the lock was written")
                continue
            place = data.source.place_of(folder, name)
            if place.stat().st_size != locked[name].size or seen.sha256(place) != locked[name].sha256:
                lines.append(f"data {data.name}: {name} changed after the lock was written")
    return lines


def names_at(place: Path, where: str) -> tuple[str, ...]:
    """The paths of the files in the folder ``place``, sorted; the name of a file that is no folder.

    ``InputsError`` after ``where`` for a folder without files or with too many, and for anything else in it.
    """
    if not place.is_dir():
        return (place.name,)
    found: list[str] = []
    for top, folders, files in os.walk(place, onerror=_raise):
        for name in (*folders, *files):
            path = Path(top, name)
            inner = path.relative_to(place).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()) or not inner.isprintable():
                raise InputsError(
                    f"{where}: {printable(inner)}: expected only regular files and folders, with printable names",
                    hint="replace links by what they point to",
                )
        found += (Path(top, name).relative_to(place).as_posix() for name in files)
        if len(found) > MAX_FILES:
            raise InputsError(
                f"{where}: more than {MAX_FILES} files", hint="pack them into fewer files, such as a database"
            )
    if not found:
        raise InputsError(f"{where}: the folder {place} has no files")
    return tuple(sorted(found))


def _is_there(folder: Path, source: Local) -> bool:
    place = folder / source.path
    return place.is_dir() if source.folder else place.is_file()


def _raise(error: OSError) -> None:
    raise InputsError(f"{error.filename}: cannot be read: {error.strerror}") from error
