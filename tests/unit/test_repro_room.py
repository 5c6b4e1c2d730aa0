"""The room that two builds need, with and without a folder for their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from privml.base.errors import HostError
from privml.image import diskroom
from privml.lock.lockfile import read_lock
from privml.recipe.loader import load, shipped
from privml.repro import rebuilt
from privml.store.objects import Store

GB = 10**9
Needed = Callable[[Path | None], int]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that are free, by the name of the folder; `disk` has the builds."""
    found: dict[str, int] = {}
    monkeypatch.setattr(diskroom.shutil, "disk_usage", lambda path: SimpleNamespace(free=found[path.name]))
    return found


@pytest.fixture
def needed(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, free: dict[str, int]) -> Needed:
    """What the second leg of the image with vLLM needs; wheels of 7 GB give an image of 4.7 GB."""
    recipe = load(shipped() / "tdx-h100-vllm.yaml")
    lock = read_lock(recipe.lock_path)
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    monkeypatch.setattr(rebuilt.pythonwheels, "unpacked", lambda *_: SimpleNamespace(size=7 * GB))
    # Two file systems: what is below `other`, and the rest.
    monkeypatch.setattr(
        diskroom, "is_one_disk", lambda one, other: ("other" in one.parts) == ("other" in other.parts)
    )
    return lambda keep: rebuilt._needed(recipe, lock, store, keep)


def least(free: dict[str, int], name: str, ask: Callable[[], object]) -> float:
    """The least free space, in GB, with which there is room."""
    for tenth in range(600):
        free[name] = tenth * GB // 10
        try:
            ask()
        except HostError:
            continue
        return tenth / 10
    raise AssertionError("there is never room")


def test_images_that_are_kept_on_the_same_disk_need_one_more(
    needed: Needed, free: dict[str, int], tmp_path: Path
) -> None:
    without = least(free, "disk", lambda: needed(None))
    kept = least(free, "disk", lambda: needed(tmp_path / "disk" / "legs"))
    assert kept - without == pytest.approx(7 * 2 / 3, abs=0.11)
    assert needed(None) == needed(tmp_path / "disk" / "legs")


def test_images_that_are_kept_on_another_disk_need_it_there(
    needed: Needed, free: dict[str, int], tmp_path: Path
) -> None:
    without = least(free, "disk", lambda: needed(None))
    free["other"] = 100 * GB
    assert least(free, "disk", lambda: needed(tmp_path / "other" / "legs")) == without
    assert least(free, "other", lambda: needed(tmp_path / "other" / "legs")) == pytest.approx(2 * 7 * 2 / 3, abs=0.11)
    free["other"] = GB
    with pytest.raises(HostError, match=r"disk-room: two images need about 9\.3 GB in .*/other/legs") as caught:
        needed(tmp_path / "other" / "legs")
    assert caught.value.hint == "free some space, or keep them on another disk"


def test_folders_that_are_not_there_yet_are_on_the_disk_of_those_above(tmp_path: Path) -> None:
    assert diskroom.is_one_disk(tmp_path, tmp_path / "one/two")
    assert not diskroom.is_one_disk(tmp_path, Path("/proc/nothing"))
