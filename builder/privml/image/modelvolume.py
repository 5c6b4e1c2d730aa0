"""What is in the volume of a model: its locked files and its chat template.

Recipes with the same model at the same place have an identical volume.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from privml.events import volumes
from privml.image.filling import Filling
from privml.lock.modelrecord import CHAT_TEMPLATE, Model
from privml.lock.models import Lock
from privml.lock.wheels import extract
from privml.store.objects import Store


def filling(number: int, lock: Lock, store: Store) -> Filling:
    """The volume of model ``number`` (from 0)."""
    model = lock.models[number]
    return Filling(
        volumes.Slot(volumes.MODEL, number),
        model.name,
        lock.source_date_epoch,
        lambda tree: _fill(model, lock, store, tree),
        PurePosixPath(model.files[0].path).name,
    )


def _fill(model: Model, lock: Lock, store: Store, tree: Path) -> None:
    """Copy the model's locked files to ``tree``."""
    wheel = lock.wheel_of(model)
    for file in model.content:
        if file is model.chat_template:
            target = tree / CHAT_TEMPLATE
            shutil.copyfile(store.path(file.sha256, verify=True), target)
        else:
            target = tree / PurePosixPath(file.path).name
            if wheel is not None:
                target.write_bytes(extract(store, wheel, file))
            else:
                shutil.copyfile(store.path(file.sha256, verify=True), target)
        target.chmod(0o644)
