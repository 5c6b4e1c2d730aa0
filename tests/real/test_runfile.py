"""A runfile unpacked by the tools' own programs, and the wheels of the recipe whose driver comes from one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit import runfile_file as r

from privml.base.errors import InputsError
from privml.image import driverrunfile
from privml.image.tools import Bind, ToolsTree
from privml.image.workplace import Workplace
from privml.lock import requirements, runfile
from privml.lock.models import Runfile
from privml.recipe import compiled
from privml.recipe.loader import load, shipped
from privml.store.objects import Store

pytestmark = pytest.mark.real
only_gpu = pytest.mark.skipif(os.environ.get("PRIVML_GPU") != "1", reason="asks the index: `make check-gpu` does it")
NAME = "tdx-h200-vllm-cu13"
PACK = {".zst": ["zstd", "-q", "-19", "-T1"], ".xz": ["xz", "-0", "-k"]}


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    return Workplace().tools(shipped() / "tdx-min.yaml")


def locked(store: Store, tools: ToolsTree, place: Path, suffix: str) -> Runfile:
    """The stand-in of a runfile in the store, packed by the tools."""
    place.mkdir()
    (place / "x").write_bytes(r.packed(r.entries()).getvalue())
    tools.run([*PACK[suffix], "/work/x"], binds=[Bind(place, "/work", writable=True)])
    data = r.script() + (place / f"x{suffix}").read_bytes()
    return Runfile(
        name=r.NAME, version=r.VERSION, url="https://x.invalid/x", sha256=store.add_bytes(data), size=len(data)
    )


@pytest.mark.parametrize("suffix", [each.suffix for each in runfile.COMPRESSIONS])
def test_a_runfile_is_unpacked_by_the_tools(tools: ToolsTree, tmp_path: Path, suffix: str) -> None:
    store = Store(tmp_path / "store")
    source = locked(store, tools, tmp_path / "pack", suffix)
    wanted = [name for part in r.RECORD.user_space("hopper") for name in part.files]
    found = driverrunfile.files_in(wanted, source, store, tools, tmp_path / "files")
    assert found == {name: f"content of {name}".encode() for name in wanted}
    driverrunfile.unpack_source("kernel-open", source, store, tools, tmp_path / "build/driver")
    driver = tmp_path / "build/driver"
    assert {
        str(path.relative_to(driver)): path.read_bytes() for path in driver.rglob("*") if path.is_file()
    } == r.SOURCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "pack", "store"]
    assert [path.name for path in driver.parent.iterdir()] == ["driver"]


def test_a_runfile_that_unpacks_to_too_much_ends_by_name(
    tools: ToolsTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    source = locked(store, tools, tmp_path / "pack", ".zst")
    monkeypatch.setattr(runfile, "MAX_TAR", 4096)
    with pytest.raises(InputsError, match=f"driver-runfile: unpacking {r.NAME}"):
        driverrunfile.files_in(["nvidia-smi"], source, store, tools, tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_a_damaged_runfile_ends_by_name(tools: ToolsTree, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    good = store.read(locked(store, tools, tmp_path / "pack", ".zst").sha256)
    data = good[:-40] + bytes(40)
    source = Runfile(
        name=r.NAME, version=r.VERSION, url="https://x.invalid/x", sha256=store.add_bytes(data), size=len(data)
    )
    with pytest.raises(InputsError, match=f"driver-runfile: unpacking {r.NAME}"):
        driverrunfile.files_in(["nvidia-smi"], source, store, tools, tmp_path / "files")


@only_gpu
def test_the_wheels_of_the_recipe_resolve_for_the_guests_python() -> None:
    """The index is asked, and nothing of 4 GB is fetched."""
    recipe = load(shipped() / f"{NAME}.yaml")
    python = recipe.content.python
    assert python is not None
    wheels = requirements._resolved(recipe, python.requirements, python.before, requirements.python_of(recipe))
    versions = {wheel.name: wheel.version for wheel in wheels}
    assert versions["vllm"] == "0.33.0"
    # CUDA 13, which needs a driver of branch 580 or later.
    assert versions["nvidia-cuda-runtime"].startswith("13.")
    assert {"torch", "nvidia-cublas", "nvidia-cudnn-cu13"} < set(versions)
    assert compiled.record_of("triton", versions["triton"]) is not None
    assert len(wheels) > 150 and all(wheel.sha256 for wheel in wheels)
