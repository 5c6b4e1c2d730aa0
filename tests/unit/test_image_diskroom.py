"""Room on the disk is checked before a large build, and said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from privml.base.errors import HostError
from privml.events.boots import DISK
from privml.image import diskroom
from privml.lock.lockfile import read_lock
from privml.recipe.loader import load, shipped
from privml.repro import rebuilt
from privml.store.objects import Store

GB = 10**9


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=20 * GB))


@pytest.mark.usefixtures("free")
def test_enough_room_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diskroom.check(tmp_path / "not/yet", 20 * GB, "two builds", "")
    assert f"two builds need about 20.0 GB in {tmp_path}/not/yet, and 20.0 GB are free" in capsys.readouterr().err


@pytest.mark.usefixtures("free")
def test_too_little_room_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"^disk-room: two builds need about 20\.1 GB in .*, and 20\.0 GB are free"):
        diskroom.check(tmp_path, 20 * GB + GB // 10, "two builds", "")


@pytest.mark.usefixtures("free")
def test_the_store_has_room_for_the_wheels_that_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, store = read_lock(shipped() / "tdx-h100-vllm.lock.json"), Store(tmp_path)
    diskroom.check_store(lock, store)
    assert "the wheels in the store need about 5.2 GB" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5 * GB))
    with pytest.raises(HostError, match=r"^disk-room: the wheels in the store"):
        diskroom.check_store(lock, store)
    diskroom.check_store(read_lock(shipped() / "tdx-min.lock.json"), store)
    assert capsys.readouterr().err == ""


def test_a_build_needs_several_times_its_wheels() -> None:
    lock = read_lock(shipped() / "tdx-h100-vllm.lock.json")
    assert 5.2 * GB < diskroom.of_inputs(lock) < 7 * GB
    assert diskroom.of_build(7 * GB) > 2.65 * 7 * GB


def test_a_disk_to_boot_from_has_models_and_root_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    small, wheels = (read_lock(shipped() / f"{name}.lock.json") for name in ("demo-cpu", "tdx-h100-vllm"))
    assert GB // 20 < diskroom.of_disk(small) - diskroom.REST_OF_DISK < GB // 5
    models = sum(file.size for file in wheels.volume_objects)
    assert models > GB // 4
    assert diskroom.of_disk(wheels) == models + sum(wheel.size for wheel in wheels.wheels) + diskroom.REST_OF_DISK
    recipe = load(shipped() / "demo-cpu.yaml")
    from_disk = replace(recipe, content=recipe.content.model_copy(update={"boot": DISK}))
    monkeypatch.setattr(rebuilt, "NEEDED", 0)
    store = Store(Path("/nowhere"))
    assert rebuilt._needed(recipe, small, store) == 0
    assert rebuilt._needed(from_disk, small, store) == diskroom.of_disk(small)
