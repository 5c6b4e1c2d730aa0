"""What a disk image says of itself outside its files: GPT, erofs and verity superblocks, as named facts.

UEFI 2.10 section 5.3; Linux fs/erofs/erofs_fs.h; cryptsetup's docs for the verity superblock.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privml.base.errors import BuildError
from privml.base.files import CHUNK
from privml.image.tools import Bind, ToolsTree
from privml.image.volume import SECTOR, Partition, partitions

_EROFS = 1024
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


def gpt_facts(path: Path) -> dict[str, str]:
    """Disk id, and of every partition its type, id, place and attributes; ``BuildError`` when there is no GPT."""
    facts = {}
    partitions(path)  # refuses what is not one
    with path.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(92)
        facts["disk id"] = _guid(header[56:72])
        table, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(table * SECTOR)
        raw = file.read(count * size)
    for number in range(count):
        kind, identifier, first, last, flags, name = struct.unpack_from("<16s16sQQQ72s", raw, number * size)
        if kind == bytes(16):
            continue
        label = name.decode("utf-16-le", "replace").split("\0")[0] or f"partition {number + 1}"
        facts[f"{label} type"] = _guid(kind)
        facts[f"{label} id"] = _guid(identifier)
        facts[f"{label} place"] = f"sectors {first} to {last}"
        facts[f"{label} flags"] = f"{flags:#x}"
    return facts


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))


def erofs_facts(path: Path, part: Partition) -> dict[str, str]:
    """UUID, time and counts of the erofs in a partition; nothing when it is no erofs."""
    with path.open("rb") as file:
        file.seek(part.offset + _EROFS)
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
    """UUID, salt and size of the verity superblock in a partition; nothing when there is none."""
    with path.open("rb") as file:
        file.seek(part.offset)
        raw = file.read(512)
    if raw[:8] != b"verity\0\0":
        return {}
    (blocks,) = struct.unpack_from("<Q", raw, 72)
    (length,) = struct.unpack_from("<H", raw, 80)
    return {
        "uuid": str(uuid.UUID(bytes=raw[16:32])),
        "salt": raw[88 : 88 + min(length, 256)].hex(),
        "data blocks": str(blocks),
    }


def digest_of(path: Path, part: Partition) -> str:
    """SHA-256 of a partition's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(part.offset)
        left = part.size
        while left and (block := file.read(min(CHUNK, left))):
            hasher.update(block)
            left -= len(block)
    return hasher.hexdigest()


@contextmanager
def extracted(tools: ToolsTree, path: Path, part: Partition) -> Iterator[Path]:
    """The erofs in a partition as a directory, by the locked fsck.erofs, which also checks it; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="privml-tree.") as folder:
        place = Path(folder)
        tools.run(
            [
                "fsck.erofs", f"--offset={part.offset}", "--xattrs", "--preserve",
                "--extract=/out/tree", f"/in/{path.name}",
            ],
            binds=[Bind(path.parent.absolute(), "/in"), Bind(place, "/out", writable=True)],
            what=f"fsck.erofs {path.name}",
            error=BuildError,
        )  # fmt: skip
        yield place / "tree"
