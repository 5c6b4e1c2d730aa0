"""The disk of an image that boots from it: EFI system partition with the UKI, then the partitions of its volumes.

The file system of the first partition has one file, the UKI under the path that firmware starts without a boot
option (UEFI 2.10 section 3.5.1.1). All identifiers are derived from names, since firmware measures the partition
table.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from privml.base.errors import BuildError, PrivmlError
from privml.events.gpt import Partition
from privml.image import partitions, render
from privml.image.partitions import MIB, Source
from privml.image.tools import Bind, ToolsTree
from privml.measure import fat, gpt

LOADER = "/".join(fat.REMOVABLE)
LABEL = "privml-esp"
# With clusters of 512 bytes this is enough of them for FAT32, which UEFI asks for, and leaves room for its tables.
_LEAST, _SLACK, _STEP = 48 * MIB, 8 * MIB, 16 * MIB
_FORMAT = ("mkfs.fat", "-F", "32", "-S", "512", "-s", "1", "--invariant")


def make(tools: ToolsTree, out: Path, *, uki: Path, volumes: Sequence[Path], name: str, epoch: int) -> None:
    """Write ``out``, the disk of image ``name``: ``uki`` in an EFI system partition, then all of ``volumes``."""
    write(tools, out, uki=uki, volumes=volumes, seed=render.seed_of(f"disk/{name}"), epoch=epoch)


def write(
    tools: ToolsTree,
    out: Path,
    *,
    uki: Path,
    seed: str,
    epoch: int,
    volumes: Sequence[Path] = (),
    error: type[PrivmlError] = BuildError,
) -> None:
    """As ``make``, with GUIDs of ``seed``; ``error`` if a tool fails."""
    identity = uuid.UUID(seed)
    own = uuid.uuid5(identity, LABEL)
    with tempfile.TemporaryDirectory(prefix=".esp.", dir=out.parent) as name:
        work = Path(name)
        size = _file_system(tools, uki, work, number=own.hex[:8], epoch=epoch, error=error)
        esp = Source(work / "esp", Partition(gpt.ESP, own, 0, size, LABEL, 0))
        partitions.write(out, identity, (esp, *partitions.sources(*volumes)))


def _file_system(
    tools: ToolsTree, uki: Path, work: Path, *, number: str, epoch: int, error: type[PrivmlError]
) -> int:
    """Write ``work/esp``, a FAT with ``uki`` and the volume id ``number``; returns its size."""
    loader = work / LOADER
    loader.parent.mkdir(parents=True)
    shutil.copyfile(uki, loader)
    for path in (loader, *loader.parents[:2]):
        os.utime(path, (epoch, epoch))
    need = loader.stat().st_size
    size = max(_LEAST, -(-(need + need // 32 + _SLACK) // _STEP) * _STEP)
    with (work / "esp").open("wb") as file:
        file.truncate(size)
    top = fat.REMOVABLE[0]
    for words in (
        [*_FORMAT, "-i", number, "-n", "ESP", "/work/esp"],
        ["mcopy", "-i", "/work/esp", "-s", "-m", "-Q", f"/work/{top}", "::"],
    ):
        tools.run(
            words,
            binds=[Bind(work, "/work", writable=True)],
            env={"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC"},
            what=words[0],
            error=error,
        )
    return size
