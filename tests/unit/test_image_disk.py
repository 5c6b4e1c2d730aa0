"""The disk of an image that boots from it: its partition table, its bytes, and what is refused."""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from image_volume import volume

from privml.base.errors import BuildError
from privml.base.run import Completed
from privml.events.gpt import SECTOR, header_crc
from privml.image import disk, partitions
from privml.image.partitions import MIB, Source
from privml.image.tools import ToolsTree
from privml.measure import gpt

EPOCH = 1_750_000_000
LOADER = b"MZ" + b"the UKI" * 1000


class Tools(ToolsTree):
    """Writes the loader into the file system, and keeps each command and its environment."""

    calls: list[tuple[list[str], dict[str, str]]]
    times: set[int]

    def run(self, argv: Sequence[Any], *, binds: Sequence[Any] = (), env: Any = None, **_: Any) -> Completed:
        work = binds[0].source
        self.calls.append((list(argv), dict(env)))
        if argv[0] == "mcopy":
            paths = [work / "EFI", *(work / "EFI").rglob("*")]
            self.times.update(int(path.stat().st_mtime) for path in paths)
            with (work / "esp").open("r+b") as file:
                file.write((work / disk.LOADER).read_bytes())
        return Completed(0, b"", b"")


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    made = Tools(tmp_path, "f" * 64)
    object.__setattr__(made, "calls", [])
    object.__setattr__(made, "times", set())
    return made


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    for name, label in (("root.raw", "privml-root"), ("model.raw", "privml-model")):
        (tmp_path / name).write_bytes(volume(label))
    (tmp_path / "uki.efi").write_bytes(LOADER)
    return [tmp_path / "root.raw", tmp_path / "model.raw"]


def made(tools: Tools, parts: list[Path], name: str = "acme", file: str = "disk.raw") -> Path:
    out = parts[0].with_name(file)
    disk.make(tools, out, uki=out.with_name("uki.efi"), volumes=parts, name=name, epoch=EPOCH)
    return out


def test_a_disk_has_the_loader_and_every_partition_of_the_volumes(tools: Tools, parts: list[Path]) -> None:
    out = made(tools, parts)
    table = gpt.read(out)
    names = ["privml-esp", "privml-root", "privml-root-verity", "privml-model", "privml-model-verity"]
    assert [part.name for part in table.partitions] == names
    esp, *others = table.partitions
    assert (esp.type, esp.start) == (gpt.ESP, MIB)
    data = out.read_bytes()
    assert data[esp.start :].startswith(LOADER)
    for part, source in zip(others, partitions.sources(*parts), strict=True):
        inner = source.partition
        assert (part.type, part.guid, part.flags, part.size) == (inner.type, inner.guid, inner.flags, inner.size)
        assert part.start % MIB == 0
        assert data[part.start : part.end] == source.file.read_bytes()[inner.start : inner.end]
    assert out.stat().st_size % MIB == 0


def test_the_backup_table_and_the_protective_mbr_are_those_of_the_disk(tools: Tools, parts: list[Path]) -> None:
    data = made(tools, parts).read_bytes()
    last = len(data) // SECTOR - 1
    assert data[446 + 4] == 0xEE and data[510:512] == b"\x55\xaa"
    assert int.from_bytes(data[446 + 12 : 446 + 16], "little") == last
    first, backup = data[SECTOR : SECTOR + 92], data[last * SECTOR : last * SECTOR + 92]
    assert header_crc(first) and header_crc(backup)
    for header in (SECTOR, last * SECTOR):
        assert not any(data[header + 92 : header + SECTOR]), "UEFI reserves the rest of a header's sector: zeros"
    assert int.from_bytes(backup[24:32], "little") == last == int.from_bytes(first[32:40], "little")
    at = int.from_bytes(backup[72:80], "little") * SECTOR
    assert data[at : at + 128 * 128] == data[2 * SECTOR : 2 * SECTOR + 128 * 128]
    assert zlib.crc32(data[at : at + 128 * 128]) == int.from_bytes(backup[88:92], "little")


def test_the_bytes_depend_on_name_and_parts_alone(tools: Tools, parts: list[Path]) -> None:
    one = made(tools, parts).read_bytes()
    os.utime(parts[0].with_name("uki.efi"), (1, 1))
    assert made(tools, parts, file="other.raw").read_bytes() == one
    renamed = made(tools, parts, "other", "renamed.raw")
    assert gpt.table(one).disk != gpt.read(renamed).disk
    assert gpt.table(one).event != gpt.read(renamed).event
    assert list(parts[0].parent.glob(".esp.*")) == []


def test_the_file_system_has_fixed_numbers_and_times(tools: Tools, parts: list[Path]) -> None:
    esp = gpt.read(made(tools, parts)).partitions[0]
    (format_, environment), (copy, _) = tools.calls
    assert format_[format_.index("-i") + 1] == esp.guid.hex[:8] and "--invariant" in format_
    assert environment == {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC"} and "-m" in copy
    assert tools.times == {EPOCH}


def test_two_partitions_of_one_name_are_refused(tools: Tools, parts: list[Path]) -> None:
    with pytest.raises(BuildError, match="two partitions have the same name"):
        made(tools, [parts[0], parts[0]])


def test_a_partition_that_ends_early_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    (first, *_) = partitions.sources(parts[0])
    parts[0].write_bytes(parts[0].read_bytes()[: first.partition.start + 1000])
    with pytest.raises(BuildError, match="privml-root` ends after 1000 of 8192 bytes"):
        partitions.write(tmp_path / "out.raw", uuid.UUID(int=1), [Source(parts[0], first.partition)])
