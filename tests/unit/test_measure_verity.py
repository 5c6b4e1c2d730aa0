"""The verity superblock: its fields, and errors for malformed ones."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from image_volume import SALT, superblock, volume

from privml.base.errors import BuildError, MeasurementError
from privml.measure import verity
from privml.measure.verity import Superblock


def test_every_field_is_read(tmp_path: Path) -> None:
    expected = Superblock(1, uuid.UUID(int=0), "sha256", 4096, 4096, 2, SALT)
    assert verity.superblock(superblock().ljust(512, b"x")) == expected
    path = tmp_path / "root.raw"
    path.write_bytes(volume("privml-root"))
    assert verity.read(path, 56 * 512) == expected
    other = verity.superblock(superblock(kind=0, algorithm=b"sha512", data=512, hashes=1024, blocks=9, length=5))
    assert other == Superblock(0, uuid.UUID(int=0), "sha512", 512, 1024, 9, SALT[:5])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "verity superblock: bytes 0 to"),
        (superblock()[:-1], "verity superblock: bytes 0 to"),
        (superblock(magic=b"veritx\0\0"), "veritx"),
        (superblock(version=2), "of version 2, expected"),
        (superblock(algorithm=b"sha\xff"), "not the name of an algorithm"),
        (superblock(algorithm=b"sha\0x"), "not the name of an algorithm"),
        (superblock(length=257), "a salt of 257 bytes, expected at most 256"),
    ],
)
def test_a_malformed_superblock_raises_the_given_error(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        verity.superblock(data)
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(512) + data)
    with pytest.raises(BuildError, match=rf"^x\.raw: .*{words}"):
        verity.read(path, 512, error=BuildError)


def test_a_superblock_is_recognised_by_its_magic() -> None:
    assert verity.is_superblock(superblock(version=2))
    assert not verity.is_superblock(superblock(magic=b"veritx\0\0"))
