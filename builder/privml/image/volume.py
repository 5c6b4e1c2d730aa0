"""Volumes: a GPT disk of two partitions, erofs data and its dm-verity tree, made by systemd-repart.

The verity parameters are read once, here, from the volume just made, and travel in measured places (the command
line for the root, the configuration for the model). The guest never reads the superblock.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError
from privml.events.verity import BLOCK_SIZE, Verity
from privml.image.tools import Bind, ToolsTree

_GENERIC = ("linux-generic", "linux-generic")
SECTOR = 512
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")  # cryptsetup docs/on-disk-format: verity superblock v1


@dataclass(frozen=True)
class Partition:
    """A GPT entry: its name and its place in bytes."""

    name: str
    offset: int
    size: int


def partitions(path: Path) -> tuple[Partition, ...]:
    """The partitions of a GPT disk image (UEFI 2.10 section 5.3); ``BuildError`` when it has no GPT."""
    with path.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(92)
        if len(header) != 92 or header[:8] != b"EFI PART":
            raise BuildError(f"{path.name}: no GPT")
        table, count, size = struct.unpack_from("<QII", header, 72)
        if size != _GPT_ENTRY.size or count > 1024:
            raise BuildError(f"{path.name}: GPT entries of {size} bytes, {count} of them")
        file.seek(table * SECTOR)
        raw = file.read(count * size)
        end = file.seek(0, 2)
    if len(raw) != count * size:
        raise BuildError(f"{path.name}: the GPT is cut: {len(raw)} bytes of entries, expected {count * size}")
    found = []
    for kind, _, first, last, _, name in _GPT_ENTRY.iter_unpack(raw):
        if kind != bytes(16):
            text = name.decode("utf-16-le", "replace").split("\0")[0]
            if not first <= last < end // SECTOR:
                raise BuildError(f"{path.name}: partition `{text}` from {first} to {last} does not fit the disk")
            found.append(Partition(text, first * SECTOR, (last - first + 1) * SECTOR))
    return tuple(found)


def verity_of(path: Path, label: str, root_hash: str) -> Verity:
    """Parameters of the volume ``label`` in ``path``, read from the superblock of its hash partition."""
    found_partitions = partitions(path)
    names = sorted(partition.name for partition in found_partitions)
    if names != sorted((label, f"{label}-verity")):
        raise BuildError(f"{path.name}: partitions {names}, expected {label} and {label}-verity")
    places = {partition.name: partition for partition in found_partitions}
    with path.open("rb") as file:
        file.seek(places[f"{label}-verity"].offset)
        raw = file.read(_SUPERBLOCK.size)
    if len(raw) != _SUPERBLOCK.size:
        raise BuildError(f"{path.name}: the verity superblock is cut")
    magic, version, kind, _, algorithm, data, hashes, blocks, length, salt = _SUPERBLOCK.unpack(raw)
    found = (magic, version, kind, algorithm.rstrip(b"\0"), data, hashes, length)
    if found != (b"verity\0\0", 1, 1, b"sha256", BLOCK_SIZE, BLOCK_SIZE, 32):
        raise BuildError(f"{path.name}: verity superblock {found} is not sha256 over {BLOCK_SIZE}-byte blocks")
    if not 0 < blocks * BLOCK_SIZE <= places[label].size:
        raise BuildError(f"{path.name}: {blocks} data blocks do not fit the partition")
    if len(root_hash) != 64 or root_hash.strip("0123456789abcdef"):
        raise BuildError(f"{path.name}: `{root_hash[:80]}` is not a SHA-256 root hash")
    return Verity(bytes.fromhex(root_hash), salt[:32], blocks, 1)


def definitions(label: str, kind: str, verity_kind: str, *, copy: str, compression: str | None) -> dict[str, str]:
    """repart.d(5) files for one volume; both disks of an image are made from this one shape."""
    data = [
        "[Partition]",
        f"Type={kind}",
        f"Label={label}",
        "Format=erofs",
        f"CopyFiles={copy}",
        "Verity=data",
        f"VerityMatchKey={label}",
        "Minimize=best",
    ]
    if compression:
        algorithm, level = compression.split(",")
        data += [f"Compression={algorithm}", f"CompressionLevel={level}"]
    tree = [
        "[Partition]",
        f"Type={verity_kind}",
        f"Label={label}-verity",
        "Verity=hash",
        f"VerityMatchKey={label}",
        f"VerityDataBlockSizeBytes={BLOCK_SIZE}",
        f"VerityHashBlockSizeBytes={BLOCK_SIZE}",
        "Minimize=best",
    ]
    return {"10-data.conf": "\n".join(data) + "\n", "11-verity.conf": "\n".join(tree) + "\n"}


def make(
    tools: ToolsTree, work: Path, label: str, *, compression: str | None, seed: str, epoch: int
) -> tuple[Path, Verity]:
    """Make ``work/volume.raw`` of the directory ``work/tree`` as volume ``label``; gives it and its parameters."""
    places = work / "repart"
    places.mkdir()
    for file, text in definitions(label, *_GENERIC, copy="/:/", compression=compression).items():
        (places / file).write_text(text)
    done = tools.run(
        [
            "systemd-repart", "--empty=create", "--size=auto", "--dry-run=no", "--json=short", "--no-pager",
            "--offline=yes", f"--seed={seed}", "--root=/work/tree", "--definitions=/work/repart", "/work/volume.raw",
        ],
        binds=[Bind(work, "/work", writable=True)],
        env={"SOURCE_DATE_EPOCH": str(epoch), "SYSTEMD_REPART_MKFS_OPTIONS_EROFS": erofs_options(epoch)},
        what="systemd-repart",
        error=BuildError,
    )  # fmt: skip
    try:
        hashes = sorted({row["roothash"] for row in json.loads(done.stdout) if row.get("roothash")})
    except (ValueError, TypeError, AttributeError) as error:
        raise BuildError(f"systemd-repart's output is not a list of partitions: {error}") from error
    if len(hashes) != 1:
        raise BuildError(f"systemd-repart gave root hashes {hashes}, expected one")
    return work / "volume.raw", verity_of(work / "volume.raw", label, hashes[0])


def erofs_options(epoch: int) -> str:
    """mkfs.erofs options of every volume. One owner, one time: what the files were on this host leaves no trace."""
    return f"--all-root -T{epoch}"
