"""Lock the models of a recipe: find the files of each in its source, check that they are a model, and digest them.

Files of a wheel stay inside it. All others become objects of the store: a file next to the recipe is copied, one at
an address or in a hub is fetched and compared with the SHA-256 in the recipe. A locked file is fetched the same way
when it is missing (`bring_models`), from pools first.
"""

from __future__ import annotations

import http.client
import logging
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from privml.base.errors import InputsError
from privml.base.files import sha256_file
from privml.base.http import Connections
from privml.base.wayout import host_way_out, without_password
from privml.lock import modelfile, wheels
from privml.lock.modelrecord import HubSource, LocalSource, Model, ModelFile, UrlSource, WheelSource
from privml.lock.models import Lock, Wheel
from privml.recipe import inference
from privml.recipe.loader import Recipe
from privml.recipe.modelsource import Address, InHub, InWheel, LocalFile
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
            case LocalFile(path=path):
                made.append(_of_folder(recipe, number, LocalSource(local=path), previous, store))
            case Address(url=url) as address:
                names = (address.name,) if model.sha256 else ()
                made.append(_remote(recipe, number, UrlSource(url=url), names, previous, store, pools, mirrors))
            case InHub(repo=repo, commit=commit):
                source = HubSource(repo=repo, commit=commit)
                made.append(_remote(recipe, number, source, (), previous, store, pools, mirrors))
    return tuple(made)


def bring_models(
    store: Store,
    locked: Iterable[Model],
    folder: Path | None,
    *,
    pools: Sequence[Pool] = (),
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Fetch locked model files that are missing from the store; returns the number of bytes fetched.

    Files next to a recipe are taken from its ``folder``, if that is known and has the locked bytes.
    """
    items = []
    for model in locked:
        for file in (file for file in model.objects if not store.has(file.sha256)):
            if isinstance(model.source, LocalSource):
                place = None if folder is None else model.source.place(folder, file)
                if place is not None and place.is_file() and sha256_file(place) == file.sha256:
                    store.add_file(place, expect=file.sha256)
                    continue
            items.append(_item(model.source, file.path, file.sha256, file.size, mirrors))
    return _fetched(store, items, pools)


def local_changes(recipe: Recipe, lock: Lock) -> list[str]:
    """One line for each model next to the recipe whose file has other bytes than the lock names."""
    seen = Store().seen
    return [
        f"model {place.name}: changed after the lock was written"
        for model in lock.models
        if isinstance(model.source, LocalSource)
        for file in model.files
        if (place := model.source.place(recipe.path.parent, file)).is_file()
        if place.stat().st_size != file.size or seen.sha256(place) != file.sha256
    ]


def _of_wheel(recipe: Recipe, number: int, wheel: Wheel, previous: Lock | None, store: Store) -> Model:
    model = models_in(recipe)[number]
    source = WheelSource(wheel=wheel.name, pattern=model_pattern(recipe, number))
    known = {} if previous is None else {each.sha256: each.name for each in previous.python}
    if known.get(wheel.sha256) == wheel.name and (same := _same(previous, source)) is not None:
        return same.model_copy(update={"name": model.name, "licence": model.licence or same.licence})
    files, licence = wheels.files_in(recipe, number, wheel, source.pattern, store)
    return _model(model, source, files, licence)


def _of_folder(recipe: Recipe, number: int, source: LocalSource, previous: Lock | None, store: Store) -> Model:
    """A model next to the recipe. If it is not there any more, the locked bytes stay."""
    model = models_in(recipe)[number]
    where = recipe.origin(f"inference.models[{number}].source")
    kind = model_format(recipe)
    given = PurePosixPath(source.local).name
    names = modelfile.FORMATS[kind].part_names(given)
    if given != names[0]:
        raise InputsError(f"{where}: `{given}` is a part of a split model, expected its first part, `{names[0]}`")
    places = [recipe.path.parent / PurePosixPath(source.local).with_name(name) for name in names]
    if missing := [place.name for place in places if not place.is_file()]:
        same = _same(previous, source)
        if len(missing) == len(places) and same is not None:
            return same.model_copy(update={"name": model.name, "licence": model.licence or same.licence})
        raise InputsError(
            f"{where}: there is no file {', '.join(missing)} in {places[0].parent}",
            hint="put the model there; the path is relative to the recipe",
        )
    digests = [sha256_file(place) for place in places]
    # Checked before it is copied: what is not a model does not enter the store.
    headers = [_checked(place, f"{where}: {place.name}", kind) for place in places]
    modelfile.check_whole(list(zip(names, headers, strict=True)), kind=kind, name=f"{where}: {given}")
    for place, digest in zip(places, digests, strict=True):
        if not store.has(digest):
            store.add_file(place, expect=digest)
    files = [
        ModelFile(path=name, size=place.stat().st_size, sha256=digest)
        for name, place, digest in zip(names, places, digests, strict=True)
    ]
    return _model(model, source, files, headers[0].licence)


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
    for name, digest in wanted.items():
        place = store.path(digest)
        headers.append((name, _checked(place, f"{where}: {name}", kind)))
        files.append(ModelFile(path=name, size=place.stat().st_size, sha256=digest))
    modelfile.check_whole(headers, kind=kind, name=f"{where}: {files[0].path}")
    return _model(model, source, files, headers[0][1].licence)


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


def _checked(place: Path, name: str, kind: str) -> modelfile.Header:
    with place.open("rb") as file:
        return modelfile.check(file, place.stat().st_size, kind=kind, name=name)


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
