"""Tables next to a platform's file: brought into the store from there, and refused if they have other bytes."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
from learnt_tables import generated

from privml.base.errors import InputsError
from privml.image.tools import ToolsTree
from privml.lock.tables import bring_tables, carry, pack, packed_path, unpack
from privml.machine.platform import Size
from privml.measure.tables import LearntTables as Decoded
from privml.measure.tables import decode, measured_files
from privml.recipe.loader import load_platform, qemus_in, shipped
from privml.recipe.platform import LearntTables, PlatformFile
from privml.store.objects import Store
from privml.vm.platforms import record
from privml.vm.qtest import blobs

SHIPPED = qemus_in(shipped())
CARRIED = [one for one in SHIPPED if one.tables is not None]
SIZE = Size(2, 2 << 30)
TABLES = Decoded(
    "10.0.13", SIZE, {2: measured_files(generated(SIZE))}, {SIZE.memory: measured_files(generated(SIZE))}
).encoded()
KNOWN = LearntTables(sha256=hashlib.sha256(TABLES).hexdigest(), size=len(TABLES))


def platform_in(folder: Path, packed: bytes) -> PlatformFile:
    """A platform with these tables in ``folder/platforms``, next to the file ``packed``."""
    text = (shipped() / "platforms/qemu-10-q35.yaml").read_text()
    known = f'tables: {{sha256: "{KNOWN.sha256}", size: {KNOWN.size}}}'
    lines = [known if line.startswith("tables:") else line for line in text.splitlines()]
    path = folder / "platforms/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines).replace("name: qemu-10-q35", "name: mine") + "\n")
    packed_path(path).write_bytes(packed)
    return load_platform("mine", folder)


def test_each_shipped_platform_says_which_binary_its_tables_are_of() -> None:
    assert [one.name for one in SHIPPED if one.vmm.package is None or one.vmm.binary is None] == []
    of_the_tools = {(one.vmm.version, one.vmm.package, one.vmm.binary) for one in SHIPPED if one.tables is None}
    assert len(of_the_tools) == 1
    assert [one.name for one in CARRIED] == ["qemu-10-q35"]


@pytest.mark.parametrize("file", CARRIED, ids=lambda one: one.name)
def test_shipped_tables_are_next_to_their_platform_and_need_no_qemu(file: PlatformFile, tmp_path: Path) -> None:
    platform = record(file)
    assert platform.tables is not None
    for size in (Size(1, 512 << 30), Size(file.max_vcpus, 2 << 30)):
        found = blobs(ToolsTree(Path("/nowhere"), ""), platform, size, tmp_path)
        assert file.machine.type.encode() in found["etc/smbios/smbios-tables"]
    kept = decode(Store(tmp_path).read(platform.tables.sha256))
    assert kept.version == file.vmm.version
    assert sorted(kept.by_vcpus) == list(range(1, file.max_vcpus + 1))


def test_an_older_machine_type_of_the_same_qemu_is_the_same_platform_but_for_its_name() -> None:
    older, newest = (record(load_platform(name, shipped())) for name in ("qemu-11-q35-10.0", "qemu-11-q35"))
    assert replace(older, name=newest.name, machine=newest.machine) == newest
    assert older.machine == record(load_platform("qemu-10-q35", shipped())).machine


def test_tables_next_to_a_recipes_platform_are_brought_without_a_pool(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    file = platform_in(tmp_path / "recipes", pack(TABLES))
    assert not carry(store, KNOWN.sha256)
    with pytest.raises(InputsError, match="the tables of platform mine"):
        bring_tables(store, [file])
    bring_tables(store, [file], folders=[tmp_path / "recipes"])
    assert store.read(KNOWN.sha256) == TABLES
    packed_path(tmp_path / "recipes/platforms/mine.yaml").unlink()
    assert carry(store, KNOWN.sha256)


def test_recipes_of_this_directory_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    platform = record(platform_in(tmp_path / "recipes", pack(TABLES)))
    found = blobs(ToolsTree(Path("/nowhere"), ""), platform, SIZE, tmp_path / "store")
    assert found == measured_files(generated(SIZE))


OTHER = TABLES[:-2] + b"9}"
WRONG = {
    "other bytes": (pack(OTHER), f"has tables with the SHA-256 {hashlib.sha256(OTHER).hexdigest()}, expected"),
    "fewer bytes": (pack(TABLES[:-1]), "has tables with the SHA-256"),
    "more bytes": (pack(TABLES + b" "), f"is not one whole xz file of {len(TABLES)} bytes"),
    "far more bytes": (pack(bytes(1 << 26)), "is not one whole xz file"),
    "the end is missing": (pack(TABLES)[:-1], "is not one whole xz file"),
    "something follows": (pack(TABLES) + b"x", "is not one whole xz file"),
    "empty": (b"", "is not one whole xz file"),
    "not xz": (b"the tables of a platform", "is not an xz file"),
    "a damaged block": (pack(TABLES)[:100] + b"\xff" * 8 + pack(TABLES)[108:], "is not an xz file"),
    "the older format": (lzma.compress(TABLES, lzma.FORMAT_ALONE), "is not an xz file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_with_other_bytes_is_named_and_nothing_is_stored(name: str, tmp_path: Path) -> None:
    packed, said = WRONG[name]
    store = Store(tmp_path / "store")
    file = platform_in(tmp_path / "recipes", packed)
    with pytest.raises(InputsError) as caught:
        bring_tables(store, [file], folders=[tmp_path / "recipes"])
    assert caught.value.message.startswith(f"platforms/mine.tables.xz {said}")
    assert "learn the platform again" in str(caught.value.hint)
    assert list(store.digests()) == []


def test_an_object_survives_its_file() -> None:
    assert unpack(pack(TABLES), KNOWN, "x") == TABLES
