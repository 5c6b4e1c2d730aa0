"""Volumes: reading a new disk, and errors for malformed ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_volume import SALT, gpt, superblock, volume

from privml.base.errors import BuildError
from privml.image.volume import Verity, definitions, erofs_options, verity_of

HASH = "ab" * 32


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "root.raw"
    path.write_bytes(volume("privml-root"))
    return path


def test_verity_parameters_come_from_the_superblock(disk: Path) -> None:
    found = verity_of(disk, "privml-root", HASH)
    assert found == Verity(bytes.fromhex(HASH), SALT, 2, 1)
    assert found.argument() == f"{HASH}:{SALT.hex()}:2:1"
    assert found.to_dict() == {
        "root_hash": HASH,
        "salt": SALT.hex(),
        "data_blocks": 2,
        "hash_start": 1,
        "block_size": 4096,
    }


def test_a_disk_without_a_table_is_a_build_error(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(4096))
    with pytest.raises(BuildError, match=r"^x\.raw: not a GPT disk image"):
        verity_of(path, "privml-root", HASH)


@pytest.mark.parametrize(
    "block",
    [
        superblock(magic=b"veritx\0\0"),
        superblock(version=2),
        superblock(kind=0),
        superblock(algorithm=b"sha512"),
        superblock(data=512),
        superblock(hashes=512),
        superblock(length=16),
        superblock(blocks=3),
        superblock(blocks=0),
    ],
)
def test_other_verity_parameters_are_refused(tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(volume("privml-root", block))
    with pytest.raises(BuildError, match=r"^x\.raw: "):
        verity_of(path, "privml-root", HASH)


@pytest.mark.parametrize("root_hash", ["", "ab", "AB" * 32, "zz" * 32, HASH + "\n"])
def test_a_malformed_root_hash_is_refused(disk: Path, root_hash: str) -> None:
    with pytest.raises(BuildError, match="not a SHA-256 root hash"):
        verity_of(disk, "privml-root", root_hash)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [("privml-root", 40, 55)],
        [("privml-model", 40, 55), ("privml-model-verity", 56, 63)],
        [("privml-root", 40, 55), ("privml-root-verity", 56, 63), ("more", 60, 63)],
        [("privml-root", 40, 55), ("privml-root-verity", 56, 63), ("privml-root", 60, 63)],
    ],
)
def test_other_partitions_are_refused(tmp_path: Path, parts: list[tuple[str, int, int]]) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(gpt(parts).ljust(64 * 512, b"\0"))
    with pytest.raises(BuildError, match="expected privml-root and privml-root-verity"):
        verity_of(path, "privml-root", HASH)


def test_definitions_have_one_data_and_one_hash_partition() -> None:
    made = definitions("m", "linux-generic", "linux-generic", copy="/:/", compression=None)
    assert sorted(made) == ["10-data.conf", "11-verity.conf"]
    assert "Compression" not in made["10-data.conf"]
    assert {"Verity=data", "VerityMatchKey=m", "Label=m", "Format=erofs"} <= set(made["10-data.conf"].splitlines())
    assert {"Verity=hash", "VerityMatchKey=m", "Label=m-verity"} <= set(made["11-verity.conf"].splitlines())
    packed = definitions("m", "a", "b", copy="/", compression="lz4hc,9")
    assert packed["10-data.conf"].splitlines()[-2:] == ["Compression=lz4hc", "CompressionLevel=9"]


def test_every_file_has_the_same_owner_and_time() -> None:
    assert erofs_options(5) == "--all-root -T5"
    assert erofs_options(5, 65536) == "--all-root -T5 -C65536"
