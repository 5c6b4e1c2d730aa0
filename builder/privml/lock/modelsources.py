"""Lock the models of a recipe: find the files of each in its source, check that they are a model, and digest them.

Files of a wheel stay inside it. All others become objects of the store: a file next to the recipe is copied, one at
an address or in a hub is fetched and compared with the SHA-256 in the recipe. A locked file is fetched the same way
when it is missing (`bring_volumes`), from pools first.
"""

from __future__ import annotations

import http.client
import logging
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import sha256_file
from privml.base.http import Connections
from privml.base.wayout import host_way_out, without_password
from privml.lock import chattemplate, localmodel, modelfile, modelsignature, safetensors, wheels
from privml.lock.modelrecord import HubSource, LocalSource, Model, ModelFile, UrlSource, Volume, WheelSource
from privml.lock.models import Lock, Wheel
from privml.recipe import inference
from privml.recipe.loader import Recipe
from privml.recipe.modelneeds import QUANTISED, against_config, config_of
from privml.recipe.modelsource import Address, InHub, InWheel, Local
from privml.recipe.packages import model_format, model_pattern, models_in
from privml.store.fetch import Item, fetch
from privml.store.mirrors import HUB, HUB_VARIABLE, Mirrors, configured_addresses, host_mirrors, urls_of
from privml.store.objects import Store
from privml.store.pools import Pool

log = logging.getLogger("privml")
_NO_HUB = f"no model hub is configured: set {HUB_VARIABLE}, or `{HUB}:` in mirrors.yaml"
_DIGEST, _SIZE = "X-Linked-Etag", "X-Linked-Size"
"""Headers with which a hub names the SHA-256 and size of a large file before it redirects to its store."""

Remote = UrlSource | HubSource


def models_of(
    recipe: Recipe,
    python: Iterable[Wheel],
    previous: Lock | None,
    store: Store,
    *,
    pools: Sequence[Pool] = (),
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> tuple[Model, ...]:
    """The recipe's models with their files. What ``previous`` has from the same source is not read again."""
    by_name = {wheel.name: wheel for wheel in python}
    made = []
    for number, model in enumerate(models_in(recipe)):
        match model.origin:
            case InWheel(name=name):
                made.append(_of_wheel(recipe, number, by_name[name], previous, store))
            case Local(path=path):
                made.append(_local(recipe, number, LocalSource(local=path), previous, store))
            case Address(url=url) as address:
                names = (address.name,) if model.sha256 else ()
                made.append(_remote(recipe, number, UrlSource(url=url), names, previous, store, pools, mirrors))
            case InHub(repo=repo, commit=commit):
                source = HubSource(repo=repo, commit=commit)
                made.append(_remote(recipe, number, source, (), previous, store, pools, mirrors))
    with_templates = (chattemplate.with_template(recipe, number, model, store) for number, model in enumerate(made))
    signed = tuple(modelsignature.signed(recipe, number, model) for number, model in enumerate(with_templates))
    for number, each in enumerate(signed):
        _check_needs(recipe, number, each, by_name, store)
    return signed


def _check_needs(recipe: Recipe, number: int, model: Model, by_name: Mapping[str, Wheel], store: Store) -> None:
    """Refuse a model that needs kernels which the recipe's engine and driver do not have, by its configuration."""
    for file in model.files:
        if file.path.rpartition("/")[2] != safetensors.CONFIG:
            continue
        wheel = by_name[model.source.wheel] if isinstance(model.source, WheelSource) else None
        apart = file.path.removesuffix(safetensors.CONFIG) + QUANTISED
        read = (file, *(each for each in model.files if each.path == apart))
        if not all(store.has(wheel.sha256 if wheel else each.sha256) for each in read):
            continue  # it was looked at when it was locked
        data = (store.read(each.sha256) if wheel is None else wheels.extract(store, wheel, each) for each in read)
        if (text := against_config(recipe, config_of(*data))) is not None:
            raise InputsError(
                f"engine-kernels: {recipe.origin(f'inference.models[{number}].source')}: {text}",
                hint="serve the model in another format, or with a newer driver",
            )


def bring_volumes(
    store: Store,
    locked: Iterable[Volume],
    folder: Path | None,
    *,
    pools: Sequence[Pool] = (),
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Fetch locked files of models and data that are missing from the store; returns the number of bytes fetched.

    Files next to a recipe are taken from its ``folder``, if that is known and has the locked bytes.
    """
    items = []
    for volume in locked:
        for file in (file for file in volume.fetched if not store.has(file.sha256)):
            if isinstance(volume.source, LocalSource):
                place = None if folder is None else volume.source.place(folder, file)
                if place is not None and place.is_file() and sha256_file(place) == file.sha256:
                    store.add_file(place, expect=file.sha256)
                    continue
            items.append(_item(volume.source, file.path, file.sha256, file.size, mirrors))
        if (template := chattemplate.bring_template(store, volume, folder)) is not None:
            items.append(_item(None, template.path, template.sha256, template.size, mirrors))
    return _fetched(store, items, pools)


def local_changes(recipe: Recipe, lock: Lock) -> list[str]:
    """One line for each file of a model next to the recipe that has other bytes than the lock names."""
    seen = Store().seen
    return (
        chattemplate.changed(recipe, lock)
        + modelsignature.changed(recipe, lock)
        + [
            f"model {place.name}: changed after the lock was written"
            for model in lock.models
            if isinstance(model.source, LocalSource)
            for file in model.files
            if (place := model.source.place(recipe.path.parent, file)).is_file()
            if place.stat().st_size != file.size or seen.sha256(place) != file.sha256
        ]
        + [
            f"model {model.name}: {name} {what} after the lock was written"
            for model in lock.models
            if isinstance(model.source, LocalSource) and model.source.local.endswith("/")
            for name, what in _names_moved(recipe.path.parent / model.source.local, model)
        ]
    )


def _names_moved(folder: Path, model: Model) -> list[tuple[str, str]]:
    """The files that are new in a model's folder, or not there any more; none if the whole folder is not there."""
    if not folder.is_dir():
        return []
    now, locked = {place.name for place in folder.iterdir()}, {file.path for file in model.files}
    return [(name, "was removed" if name in locked else "is new") for name in sorted(now ^ locked)]


def _of_wheel(recipe: Recipe, number: int, wheel: Wheel, previous: Lock | None, store: Store) -> Model:
    model = models_in(recipe)[number]
    source = WheelSource(wheel=wheel.name, pattern=model_pattern(recipe, number))
    known = {} if previous is None else {each.sha256: each.name for each in previous.python}
    if known.get(wheel.sha256) == wheel.name and (same := _same(previous, source)) is not None:
        return same.model_copy(update={"name": model.name, "licence": model.licence or same.licence})
    files, licence = wheels.files_in(recipe, number, wheel, source.pattern, store)
    return _model(model, source, files, licence)


def _local(recipe: Recipe, number: int, source: LocalSource, previous: Lock | None, store: Store) -> Model:
    """A model next to the recipe. If it is not there any more, the locked bytes stay."""
    model = models_in(recipe)[number]
    where = recipe.origin(f"inference.models[{number}].source")
    kind = model_format(recipe)
    there = recipe.path.parent / source.local
    names = localmodel.names_at(there, kind, where)
    places = [source.place_of(recipe.path.parent, name) for name in names]
    missing = [place.name for place in places if not place.is_file()]
    if missing or not places:
        same = _same(previous, source)
        if len(missing) == len(places) and same is not None:
            return same.model_copy(update={"name": model.name, "licence": model.licence or same.licence})
        what = f"file {', '.join(missing)} in {places[0].parent}" if missing else f"model in {there}"
        raise InputsError(
            f"{where}: there is no {what}", hint="put the model there; the path is relative to the recipe"
        )
    # Checked before it is copied: what is not a model does not enter the store.
    files, licence = localmodel.read(dict(zip(names, places, strict=True)), kind, where)
    for file, place in zip(files, places, strict=True):
        if not store.has(file.sha256):
            store.add_file(place, expect=file.sha256)
    return _model(model, source, files, licence)


def _remote(
    recipe: Recipe,
    number: int,
    source: Remote,
    names: tuple[str, ...],
    previous: Lock | None,
    store: Store,
    pools: Sequence[Pool],
    mirrors: Callable[[], Mirrors],
) -> Model:
    """A model whose files the recipe names with their SHA-256."""
    model = models_in(recipe)[number]
    where = recipe.origin(f"inference.models[{number}].source")
    wanted = dict.fromkeys(names, model.sha256 or "") | {part.name: part.sha256 for part in model.files or ()}
    same = _same(previous, source)
    if same is not None and {file.path: file.sha256 for file in same.files} == wanted:
        return same.model_copy(update={"name": model.name, "licence": model.licence or same.licence})
    items = []
    for name, digest in wanted.items():
        if not store.has(digest):
            item = _item(source, name, digest, None, mirrors)
            items.append(_announced(item, where) if isinstance(source, HubSource) else item)
    _fetched(store, items, pools)
    kind = model_format(recipe)
    headers, files = [], []
    for name in modelfile.FORMATS[kind].ordered(tuple(wanted)):
        place = store.path(wanted[name])
        headers.append((name, localmodel.checked(place, f"{where}: {name}", kind, name)))
        files.append(ModelFile(path=name, size=place.stat().st_size, sha256=wanted[name]))
    modelfile.check_whole(headers, kind=kind, name=f"{where}: {files[0].path}")
    return _model(model, source, files, modelfile.licence(headers))


def _announced(item: Item, where: str) -> Item:
    """``item`` with the size that the hub names; ``InputsError`` if the hub has another file there.

    A hub that does not answer this question is asked for the file all the same.
    """
    for url in item.urls:
        try:
            with Connections(host_way_out(configured_addresses())) as connections:
                response = connections.head(url, until=_DIGEST)
        except (OSError, http.client.HTTPException) as error:
            log.debug("%s: %s", without_password(url), error)
            continue
        digest = response.getheader(_DIGEST, "").removeprefix("W/").strip('"')
        size = response.getheader(_SIZE, "")
        if len(digest) == 64 and digest != item.sha256:
            raise InputsError(
                f"{where}: {item.name}: the hub has sha256 {digest} at this commit, expected {item.sha256}",
                hint="compare the SHA-256 in the recipe with the one that the publisher of the model states",
            )
        if len(digest) == 64 and size.isascii() and size.isdigit():
            return Item(item.sha256, int(size), item.name, item.urls, item.nowhere)
    return item


def _item(source: object, path: str, digest: str, size: int | None, mirrors: Callable[[], Mirrors]) -> Item:
    match source:
        case UrlSource(url=url):
            address = url
            if urllib.parse.urlsplit(url).path.endswith("/"):
                parts = urllib.parse.urlsplit(url)
                address = parts._replace(path=parts.path + urllib.parse.quote(path, safe="/")).geturl()
            return Item(digest, size, path, (address,))
        case HubSource(repo=repo, commit=commit):
            return Item(digest, size, path, urls_of(HUB, f"{repo}/resolve/{commit}/{path}", mirrors()), _NO_HUB)
        case _:
            return Item(digest, size, path, (), "it is not next to the recipe any more, or has other bytes there")


def _fetched(store: Store, items: Sequence[Item], pools: Sequence[Pool]) -> int:
    try:
        return fetch(store, items, pools=pools)
    except InputsError as error:
        # Unlike a package, a model cannot be replaced by the lock, so there is no `GoneError`.
        raise InputsError(
            error.message, hint="name a pool that has it (--pool), or another source in the recipe"
        ) from error


def _same(previous: Lock | None, source: object) -> Model | None:
    """The model of ``previous`` with the same source."""
    return next((old for old in (previous.models if previous else ()) if old.source == source), None)


def _model(model: inference.Model, source: object, files: Sequence[ModelFile], licence: str | None) -> Model:
    return Model.model_validate(
        {
            "name": model.name,
            "source": source,
            "files": tuple(files),
            "licence": model.licence or licence,
            "signature": None,
        }
    )
