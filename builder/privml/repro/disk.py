"""Metadata of a disk image as named facts: GPT, erofs and verity superblocks.

Source of the erofs superblock: Linux fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privml.base.errors import BuildError, MeasurementError
from privml.base.files import CHUNK
from privml.events.gpt import SECTOR, Partition, Table
from privml.image.tools import Bind, ToolsTree
from privml.measure import verity

_EROFS = 1024
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


def gpt_facts(table: Table) -> dict[str, str]:
    """The disk's id, and type, id, position and attributes of every partition."""
    facts = {"disk id": str(table.disk)}
    for number, part in enumerate(table.partitions, 1):
        label = part.name or f"partition {number}"
        facts[f"{label} type"] = str(part.type)
        facts[f"{label} id"] = str(part.guid)
        facts[f"{label} place"] = f"sectors {part.start // SECTOR} to {part.end // SECTOR - 1}"
        facts[f"{label} flags"] = f"{part.flags:#x}"
    return facts


def erofs_facts(path: Path, part: Partition) -> dict[str, str]:
    """UUID, time and counts of the erofs in a partition; empty if it is not an erofs."""
    with path.open("rb") as file:
        file.seek(part.start + _EROFS)
        raw = file.read(128)
    if raw[:4] != _EROFS_MAGIC:
        return {}
    inodes, seconds, _, blocks, _, _ = struct.unpack_from("<QQIIII", raw, 16)
    return {
        "uuid": str(uuid.UUID(bytes=raw[48:64])),
        "build time": str(seconds),
        "inodes": str(inodes),
        "blocks": str(blocks),
    }


def verity_facts(path: Path, part: Partition) -> dict[str, str]:
    """UUID, salt and size of the verity superblock in a partition; empty if there is none."""
    with path.open("rb") as file:
        file.seek(part.start)
        raw = file.read(verity.SIZE)
    if not verity.is_superblock(raw):
        return {}
    try:
        found = verity.superblock(raw)
    except MeasurementError as error:
        return {"superblock": error.message}
    return {"uuid": str(found.uuid), "salt": found.salt.hex(), "data blocks": str(found.data_blocks)}


def digest_of(path: Path, part: Partition) -> str:
    """SHA-256 of a partition's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(part.start)
        left = part.size
        while left and (block := file.read(min(CHUNK, left))):
            hasher.update(block)
            left -= len(block)
    return hasher.hexdigest()


@contextmanager
def extracted(tools: ToolsTree, path: Path, part: Partition) -> Iterator[Path]:
    """Extract the erofs of a partition with the locked fsck.erofs, which also checks it; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="privml-tree.") as folder:
        place = Path(folder)
        tools.run(
            [
                "fsck.erofs", f"--offset={part.start}", "--xattrs", "--preserve",
                "--extract=/out/tree", f"/in/{path.name}",
            ],
            binds=[Bind(path.parent.absolute(), "/in"), Bind(place, "/out", writable=True)],
            what=f"fsck.erofs {path.name}",
            error=BuildError,
        )  # fmt: skip
        yield place / "tree"
