"""A disk from which firmware boots the UKI of any image, for a single boot. Its volumes are on disks of their own."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import HostError
from privml.image import disk
from privml.image.tools import ToolsTree

_SEED = "3c9c2b1e-6f0d-4f4e-9d0b-6a1c2f1f8a55"
_EPOCH = 315532800  # the first time that FAT can hold


def make(tools: ToolsTree, uki: Path, target: Path) -> Path:
    """Write the disk ``target`` (raw, GPT) that boots ``uki``."""
    disk.write(tools, target, uki=uki, seed=_SEED, epoch=_EPOCH, error=HostError)
    return target
