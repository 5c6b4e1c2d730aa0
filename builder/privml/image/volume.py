"""Volumes: a GPT disk with an erofs partition and its dm-verity hash partition, made by systemd-repart.

The verity parameters are read once, here, from the new volume. They are passed to the guest in measured places (the
command line for the root, the configuration for the model); the guest never reads the superblock.
"""

from __future__ import annotations

import json
from pathlib import Path

from privml.base.errors import BuildError
from privml.events.verity import BLOCK_SIZE, Verity
from privml.image.tools import Bind, ToolsTree
from privml.measure import gpt, verity

_GENERIC = ("linux-generic", "linux-generic")


def verity_of(path: Path, label: str, root_hash: str) -> Verity:
    """Verity parameters of the volume ``label`` in ``path``, read from the superblock of its hash partition."""
    partitions = gpt.read(path, error=BuildError).partitions
    names = sorted(partition.name for partition in partitions)
    if names != sorted((label, f"{label}-verity")):
        raise BuildError(f"{path.name}: partitions {names}, expected {label} and {label}-verity")
    places = {partition.name: partition for partition in partitions}
    found = verity.read(path, places[f"{label}-verity"].start, error=BuildError)
    kind = (found.hash_type, found.algorithm, found.data_block, found.hash_block, len(found.salt))
    if kind != (1, "sha256", BLOCK_SIZE, BLOCK_SIZE, 32):
        raise BuildError(f"{path.name}: verity superblock {kind} is not sha256 over {BLOCK_SIZE}-byte blocks")
    if not 0 < found.data_blocks * BLOCK_SIZE <= places[label].size:
        raise BuildError(f"{path.name}: {found.data_blocks} data blocks do not fit in the partition")
    if len(root_hash) != 64 or root_hash.strip("0123456789abcdef"):
        raise BuildError(f"{path.name}: `{root_hash[:80]}` is not a SHA-256 root hash")
    return Verity(bytes.fromhex(root_hash), found.salt, found.data_blocks, 1)


def definitions(label: str, kind: str, verity_kind: str, *, copy: str, compression: str | None) -> dict[str, str]:
    """repart.d(5) files for one volume; root and model volumes share this layout."""
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
    """Build ``work/volume.raw`` from ``work/tree`` as volume ``label``; returns its path and verity parameters."""
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
        raise BuildError(f"systemd-repart reported root hashes {hashes}, expected one")
    return work / "volume.raw", verity_of(work / "volume.raw", label, hashes[0])


def erofs_options(epoch: int, cluster: int | None = None) -> str:
    """mkfs.erofs options of a volume, compressed in clusters of ``cluster`` bytes. Owner and times are fixed, so
    nothing of the host's files remains.
    """
    return f"--all-root -T{epoch}" + (f" -C{cluster}" if cluster else "")
