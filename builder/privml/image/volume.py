"""Volumes: a GPT disk with an erofs partition and its dm-verity hash partition, made by systemd-repart.

The verity parameters are read once, here, from the new volume. They are passed to the guest in measured places (the
command line for the root, the configuration for the model); the guest never reads the superblock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError
from privml.base.files import CHUNK, remove_tree
from privml.events.gpt import Partition
from privml.events.verity import BLOCK_SIZE, Verity
from privml.image.tools import Bind, ToolsTree
from privml.measure import gpt, verity

_GENERIC = ("linux-generic", "linux-generic")
_DATA, _TREE = "10-data.conf", "11-verity.conf"


def verity_of(path: Path, label: str, root_hash: str) -> Verity:
    """Verity parameters of the volume ``label`` in ``path``, read from the superblock of its hash partition."""
    places = _parts(path, label, f"{label}-verity")
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
    data = [*_filesystem(label, kind, copy), "Verity=data", f"VerityMatchKey={label}", "Minimize=best"]
    if compression:
        algorithm, level = compression.split(",")
        data += [f"Compression={algorithm}", f"CompressionLevel={level}"]
    return {_DATA: _lines(data), _TREE: _lines(_hash_tree(label, verity_kind))}


def _filesystem(label: str, kind: str, copy: str) -> list[str]:
    return ["[Partition]", f"Type={kind}", f"Label={label}", "Format=erofs", f"CopyFiles={copy}"]


def _hash_tree(label: str, kind: str) -> list[str]:
    return [
        "[Partition]",
        f"Type={kind}",
        f"Label={label}-verity",
        "Verity=hash",
        f"VerityMatchKey={label}",
        f"VerityDataBlockSizeBytes={BLOCK_SIZE}",
        f"VerityHashBlockSizeBytes={BLOCK_SIZE}",
        "Minimize=best",
    ]


def _lines(words: list[str]) -> str:
    return "\n".join(words) + "\n"


def make(
    tools: ToolsTree, work: Path, label: str, *, compression: str | None, seed: str, epoch: int
) -> tuple[Path, Verity]:
    """Build ``work/volume.raw`` from ``work/tree`` as volume ``label``; returns its path and verity parameters."""
    files = definitions(label, *_GENERIC, copy="/:/", compression=compression)
    return _with_verity(tools, work, label, files, _Repart(seed, epoch, root=True))


def plaintext(tools: ToolsTree, work: Path, label: str, *, seed: str, epoch: int) -> tuple[Path, Partition]:
    """Build ``work/plain.raw`` from ``work/tree``, with the filesystem of ``label`` and no hash tree.

    Returns its path and the partition.
    """
    files = {_DATA: _lines([*_filesystem(label, _GENERIC[0], "/:/"), "Minimize=best"])}
    path = work / "plain.raw"
    _Repart(seed, epoch, root=True).run(tools, work, files, path.name)
    return path, _parts(path, label)[label]


def over_blocks(tools: ToolsTree, work: Path, label: str, *, seed: str, epoch: int) -> tuple[Path, Verity]:
    """Build ``work/volume.raw`` as volume ``label`` over the bytes of the file ``work/blocks``, whatever they are."""
    data = [
        "[Partition]", f"Type={_GENERIC[0]}", f"Label={label}", "CopyBlocks=/work/blocks", "Verity=data",
        f"VerityMatchKey={label}",
    ]  # fmt: skip
    files = {_DATA: _lines(data), _TREE: _lines(_hash_tree(label, _GENERIC[1]))}
    return _with_verity(tools, work, label, files, _Repart(seed, epoch, root=False))


def copy_blocks(path: Path, label: str, work: Path) -> None:
    """Copy the data partition of volume ``label`` in ``path`` to ``work/blocks``, for `over_blocks`."""
    part = _parts(path, label, f"{label}-verity")[label]
    left = part.size
    with path.open("rb") as volume, (work / "blocks").open("xb") as file:
        volume.seek(part.start)
        while left:
            block = volume.read(min(CHUNK, left))
            if not block:
                raise BuildError(f"{path.name}: ends {left} bytes before its partition {label}")
            file.write(block)
            left -= len(block)


def _parts(path: Path, *expected: str) -> dict[str, Partition]:
    partitions = gpt.read(path, error=BuildError).partitions
    names = sorted(partition.name for partition in partitions)
    if names != sorted(expected):
        raise BuildError(f"{path.name}: partitions {names}, expected {' and '.join(expected)}")
    return {partition.name: partition for partition in partitions}


@dataclass(frozen=True)
class _Repart:
    """Runs of systemd-repart; ``root``: with ``work/tree`` as the root that files are copied from."""

    seed: str
    epoch: int
    root: bool

    def run(self, tools: ToolsTree, work: Path, files: dict[str, str], name: str) -> bytes:
        """Write the new disk ``work/NAME`` by the definitions ``files``; returns repart's JSON."""
        places = work / "repart"
        remove_tree(places)
        places.mkdir()
        for file, text in files.items():
            (places / file).write_text(text)
        root = ["--root=/work/tree"] if self.root else []
        done = tools.run(
            [
                "systemd-repart", "--empty=create", "--size=auto", "--dry-run=no", "--json=short", "--no-pager",
                "--offline=yes", f"--seed={self.seed}", *root, "--definitions=/work/repart", f"/work/{name}",
            ],
            binds=[Bind(work, "/work", writable=True)],
            env={
                "SOURCE_DATE_EPOCH": str(self.epoch),
                "SYSTEMD_REPART_MKFS_OPTIONS_EROFS": erofs_options(self.epoch),
            },
            what="systemd-repart",
            error=BuildError,
        )  # fmt: skip
        return done.stdout


def _with_verity(
    tools: ToolsTree, work: Path, label: str, files: dict[str, str], repart: _Repart
) -> tuple[Path, Verity]:
    path = work / "volume.raw"
    output = repart.run(tools, work, files, path.name)
    try:
        hashes = sorted({row["roothash"] for row in json.loads(output) if row.get("roothash")})
    except (ValueError, TypeError, AttributeError) as error:
        raise BuildError(f"systemd-repart's output is not a list of partitions: {error}") from error
    if len(hashes) != 1:
        raise BuildError(f"systemd-repart reported root hashes {hashes}, expected one")
    return path, verity_of(path, label, hashes[0])


def erofs_options(epoch: int, cluster: int | None = None) -> str:
    """mkfs.erofs options of a volume, compressed in clusters of ``cluster`` bytes. Owner and times are fixed, so
    nothing of the host's files remains.
    """
    return f"--all-root -T{epoch}" + (f" -C{cluster}" if cluster else "")
