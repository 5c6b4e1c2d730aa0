"""Read a model on this machine: find its files, check that they are one whole model, and digest them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from privml.base.errors import InputsError, printable
from privml.base.files import sha256_file
from privml.lock import modelfile
from privml.lock.modelrecord import ModelFile


def names_at(place: Path, kind: str, where: str) -> tuple[str, ...]:
    """The names of the files of the model at ``place``, in order; none if its folder is not there.

    ``InputsError`` after ``where`` if what is there cannot be a model of format ``kind``.
    """
    form = modelfile.FORMATS[kind]
    try:
        return form.ordered(form.beside(place))
    except ValueError as error:
        raise InputsError(f"{where}: {printable(str(error))}") from error


def read(places: Mapping[str, Path], kind: str, where: str) -> tuple[tuple[ModelFile, ...], str | None]:
    """The files of a model by their names and places, and the licence that they name.

    ``InputsError`` if they are not one whole model of format ``kind``.
    """
    digests = {name: sha256_file(place) for name, place in places.items()}
    headers = [(name, checked(place, f"{where}: {name}", kind, name)) for name, place in places.items()]
    modelfile.check_whole(headers, kind=kind, name=f"{where}: {headers[0][0]}")
    files = (ModelFile(path=name, size=place.stat().st_size, sha256=digests[name]) for name, place in places.items())
    return tuple(files), modelfile.licence(headers)


def checked(place: Path, name: str, kind: str, path: str) -> modelfile.Header:
    """The header of the file at ``place``; ``InputsError`` with ``name`` if it is not a file of format ``kind``."""
    with place.open("rb") as file:
        return modelfile.check(file, place.stat().st_size, kind=kind, name=name, path=path)
