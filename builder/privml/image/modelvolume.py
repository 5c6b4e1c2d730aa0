"""Model volumes: a model's locked files and chat template in an erofs filesystem under dm-verity.

A volume is a function of the model's bytes, name and times, and of its key if it is encrypted; recipes with the same
model share an identical volume. An encrypted volume has the same layout, and its hash tree is over the ciphertext.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from privml.base.errors import InputsError
from privml.base.files import remove_tree
from privml.events import volumes
from privml.events.crypt import Crypt
from privml.events.verity import Verity
from privml.image import encryption, render, volume
from privml.image.tools import ToolsTree
from privml.image.volumekeys import Given
from privml.lock.modelrecord import CHAT_TEMPLATE, Model
from privml.lock.models import Lock
from privml.lock.wheels import extract
from privml.output.volumekey import VolumeKey
from privml.store.objects import Store


@dataclass(frozen=True)
class ModelVolume:
    """A model's name, its (first) file in the volume, the volume's dm-verity parameters, and its encryption."""

    name: str
    file: str
    verity: Verity
    crypt: Crypt | None = None


def make(number: int, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path) -> ModelVolume:
    """Build the volume of model ``number`` (from 0) in the new directory ``work`` and move it to ``out``."""
    model = lock.models[number]
    _fill(model, lock, store, tree_in(work))
    raw, verity = sealed(model.name, number, lock.source_date_epoch, tools, work)
    raw.rename(out / volumes.file(number))
    return ModelVolume(model.name, _file(model), verity)


def make_encrypted(
    number: int, lock: Lock, store: Store, tools: ToolsTree, work: Path, out: Path, key: VolumeKey, broker: str
) -> ModelVolume:
    """`make` for a volume that ``key`` encrypts. Its plaintext is removed before the hash tree is made."""
    model = lock.models[number]
    tree, place = tree_in(work), _Place(model.name, number, lock.source_date_epoch)
    _fill(model, lock, store, tree)
    plain, part = volume.plaintext(tools, work, place.label, seed=place.seed, epoch=place.epoch)
    remove_tree(tree)
    encryption.encrypt(plain, part.start, part.size, work / "blocks", key.key)
    plain.unlink()
    verity = place.over_blocks(tools, work, out)
    return ModelVolume(model.name, _file(model), verity, key.crypt(broker))


def take(number: int, lock: Lock, tools: ToolsTree, work: Path, out: Path, given: Given, broker: str) -> ModelVolume:
    """The encrypted volume of model ``number`` with the ciphertext of another image, which is not decrypted.

    The hash tree is made again; ``InputsError`` if it has another root than that image's manifest says.
    """
    model = lock.models[number]
    place = _Place(model.name, number, lock.source_date_epoch)
    work.mkdir(parents=True)
    volume.copy_blocks(given.path, place.label, work)
    verity = place.over_blocks(tools, work, out)
    if verity != given.model.verity:
        raise InputsError(
            f"{given.path}: the dm-verity root over its blocks is {verity.root_hash.hex()}, expected "
            f"{given.model.verity.root_hash.hex()}, as in the manifest next to it",
            hint="name an image of this model that the same version of privml-build made from the same lock",
        )
    return ModelVolume(model.name, _file(model), verity, replace(given.crypt, broker=broker))


@dataclass(frozen=True)
class _Place:
    """The name of a model, its place in the image, and the time of all files: what a volume depends on besides."""

    name: str
    number: int
    epoch: int

    @property
    def label(self) -> str:
        return volumes.partition(self.number)

    @property
    def seed(self) -> str:
        return render.seed_of(f"model/{self.name}")

    def over_blocks(self, tools: ToolsTree, work: Path, out: Path) -> Verity:
        """Move the volume over ``work/blocks`` to ``out``."""
        raw, verity = volume.over_blocks(tools, work, self.label, seed=self.seed, epoch=self.epoch)
        (work / "blocks").unlink()
        raw.rename(out / volumes.file(self.number))
        return verity


def _file(model: Model) -> str:
    return PurePosixPath(model.files[0].path).name


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


def tree_in(work: Path) -> Path:
    """The new folder that becomes the volume's root, in the new directory ``work``."""
    (work / "tree").mkdir(parents=True)
    (work / "tree").chmod(0o755)  # the mode given to mkdir would be subject to the umask
    return work / "tree"


def sealed(name: str, number: int, epoch: int, tools: ToolsTree, work: Path) -> tuple[Path, Verity]:
    """The volume of ``work/tree`` as that of model ``name``, number ``number`` of an image, and its parameters."""
    place = _Place(name, number, epoch)
    return volume.make(tools, work, place.label, compression=None, seed=place.seed, epoch=epoch)
