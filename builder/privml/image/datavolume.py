"""What is in a data volume: the locked files, with their paths in the folder that they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

from privml.events import volumes
from privml.image.filling import Filling
from privml.lock.modelrecord import Data
from privml.lock.models import Lock
from privml.store.objects import Store

_FOLDER, _FILE = 0o755, 0o644


def filling(number: int, lock: Lock, store: Store) -> Filling:
    """The volume of data ``number`` (from 0)."""
    data = lock.data[number]
    slot = volumes.Slot(volumes.DATA, number)
    return Filling(slot, data.name, lock.source_date_epoch, lambda tree: _fill(data, store, tree))


def _fill(data: Data, store: Store, tree: Path) -> None:
    """Copy the locked files to ``tree``."""
    for file in data.files:
        target = tree / file.path
        for folder in reversed([each for each in target.parents if each != tree and tree in each.parents]):
            if not folder.exists():
                folder.mkdir()
                folder.chmod(_FOLDER)
        shutil.copyfile(store.path(file.sha256, verify=True), target)
        target.chmod(_FILE)
