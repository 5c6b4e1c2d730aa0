"""Lock the chat template that a recipe has for a model: a Jinja text next to the recipe, an object of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import read_start, sha256_file
from privml.lock.modelrecord import Model, ModelFile, Volume
from privml.lock.models import Lock
from privml.recipe.loader import Recipe
from privml.recipe.packages import models_in
from privml.store import lookalikes
from privml.store.objects import Store

MAX_BYTES = 1 << 20
_HINT = "a chat template is Jinja text; the engine says when it starts whether it can use it"


def with_template(recipe: Recipe, number: int, model: Model, store: Store) -> Model:
    """``model``, number ``number`` of the recipe, with the chat template that the recipe has for it, if any."""
    path = models_in(recipe)[number].chat_template
    if path is None:
        return model.model_copy(update={"chat_template": None})
    where = f"{recipe.origin(f'inference.models[{number}].chat_template')}: {path}"
    place = recipe.path.parent / path
    if not place.resolve().is_relative_to(recipe.path.parent.resolve()):
        raise InputsError(f"{where} leads outside the recipe's folder")
    if not place.is_file():
        raise InputsError(f"{where} does not exist", hint="paths start at the recipe's folder")
    data = read_start(place, MAX_BYTES)
    if wrong := _wrong(data):
        raise InputsError(f"{where} is not a chat template: {wrong}", hint=_HINT)
    file = ModelFile(path=path, size=len(data), sha256=store.add_bytes(data))
    return model.model_copy(update={"chat_template": file})


def bring_template(store: Store, model: Volume, folder: Path | None) -> ModelFile | None:
    """Take a missing template from the recipe's ``folder``; returns it if it has to be fetched from elsewhere."""
    file = model.chat_template
    if file is None or store.has(file.sha256):
        return None
    place = None if folder is None else folder / file.path
    if place is None or not place.is_file() or sha256_file(place) != file.sha256:
        return file
    store.add_file(place, expect=file.sha256)
    return None


def changed(recipe: Recipe, lock: Lock) -> list[str]:
    """One line for each chat template next to the recipe that has other bytes than the lock names."""
    return [
        f"model {model.name}: its chat template {file.path} changed after the lock was written"
        for model in lock.models
        if (file := model.chat_template) is not None and (place := recipe.path.parent / file.path).is_file()
        if hashlib.sha256(read_start(place, MAX_BYTES)).hexdigest() != file.sha256
    ]


def _wrong(data: bytes) -> str:
    """Why ``data`` is no chat template; empty if it may be one."""
    if not data.strip():
        return "it is empty"
    if len(data) > MAX_BYTES:
        return f"it has more than {MAX_BYTES} bytes"
    meaning = lookalikes.meaning(data[: lookalikes.BEGIN])
    if meaning not in (None, lookalikes.JSON):  # most templates begin with a brace, too
        return f"it is {meaning}"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    odd = next((character for character in text if character < " " and character not in "\t\n\r"), None)
    return "" if odd is None else f"it has the control character {odd!r}"
