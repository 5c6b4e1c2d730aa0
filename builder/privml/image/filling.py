"""Make the volumes of models and data: locked files in an erofs filesystem under dm-verity.

A volume is a function of its kind, its name, its place in the image, its files and times, and of its key if it is
encrypted. An encrypted volume has the same layout, and its hash tree is over the ciphertext.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import remove_tree
from privml.events.crypt import Crypt
from privml.events.verity import Verity
from privml.events.volumes import Slot
from privml.image import encryption, render, volume
from privml.image.tools import ToolsTree
from privml.image.volumekeys import Given
from privml.output.volumekey import VolumeKey

Fill = Callable[[Path], None]
"""Writes the files of a volume into its root."""


@dataclass(frozen=True)
class MadeVolume:
    """A volume that was made: its name, dm-verity parameters and encryption.

    ``file`` is a model's (first) file in its volume; empty for data.
    """

    name: str
    file: str
    verity: Verity
    crypt: Crypt | None = None


@dataclass(frozen=True)
class Filling:
    """A volume to make: its place in the image, its name, the time of all files, and what writes them.

    ``file`` is as in `MadeVolume`.
    """

    slot: Slot
    name: str
    epoch: int
    fill: Fill
    file: str = ""

    @property
    def seed(self) -> str:
        """What UUIDs and salt are derived from."""
        return render.seed_of(f"{self.slot.kind.name}/{self.name}")

    def make(self, tools: ToolsTree, work: Path, out: Path) -> MadeVolume:
        """Build the volume in the new directory ``work`` and move it to ``out``."""
        self.fill(tree_in(work))
        raw, verity = volume.make(
            tools, work, self.slot.partition, compression=None, seed=self.seed, epoch=self.epoch
        )
        raw.rename(out / self.slot.file)
        return MadeVolume(self.name, self.file, verity)

    def make_encrypted(self, tools: ToolsTree, work: Path, out: Path, key: VolumeKey, broker: str) -> MadeVolume:
        """`make` for a volume that ``key`` encrypts. Its plaintext is removed before the hash tree is made."""
        tree = tree_in(work)
        self.fill(tree)
        plain, part = volume.plaintext(tools, work, self.slot.partition, seed=self.seed, epoch=self.epoch)
        remove_tree(tree)
        encryption.encrypt(plain, part.start, part.size, work / "blocks", key.key)
        plain.unlink()
        verity = self._over_blocks(tools, work, out)
        return MadeVolume(self.name, self.file, verity, key.crypt(broker))

    def take(self, tools: ToolsTree, work: Path, out: Path, given: Given, broker: str) -> MadeVolume:
        """The encrypted volume with the ciphertext of another image, which is not decrypted.

        The hash tree is made again; ``InputsError`` if it has another root than that image's manifest says.
        """
        work.mkdir(parents=True)
        volume.copy_blocks(given.path, self.slot.partition, work)
        verity = self._over_blocks(tools, work, out)
        if verity != given.entry.verity:
            raise InputsError(
                f"{given.path}: the dm-verity root over its blocks is {verity.root_hash.hex()}, expected "
                f"{given.entry.verity.root_hash.hex()}, as in the manifest next to it",
                hint=f"name an image of this {self.slot.kind.name} that the same version of privml-build made from "
                "the same lock",
            )
        return MadeVolume(self.name, self.file, verity, replace(given.crypt, broker=broker))

    def _over_blocks(self, tools: ToolsTree, work: Path, out: Path) -> Verity:
        """Move the volume over ``work/blocks`` to ``out``."""
        raw, verity = volume.over_blocks(tools, work, self.slot.partition, seed=self.seed, epoch=self.epoch)
        (work / "blocks").unlink()
        raw.rename(out / self.slot.file)
        return verity


def tree_in(work: Path) -> Path:
    """The new folder that becomes the volume's root, in the new directory ``work``."""
    (work / "tree").mkdir(parents=True)
    (work / "tree").chmod(0o755)  # the mode given to mkdir would be subject to the umask
    return work / "tree"
