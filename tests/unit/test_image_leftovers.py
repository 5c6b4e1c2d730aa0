"""Leftovers of killed builds are found by name and removed, those of other user ids with a helper."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from privml.image import leftovers
from privml.image.leftovers import remove_leftovers


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in (".image.abcdefg1", ".image.old.abcdefg2", ".image.lock", ".image.abc", "image", ".images.abcdefg1"):
        (tmp_path / name / "inside").mkdir(parents=True)
    return tmp_path / "image"


def test_only_temporary_names_of_a_build_are_removed(place: Path) -> None:
    assert remove_leftovers(place) == 2
    assert {path.name for path in place.parent.iterdir()} == {
        ".image.lock",
        ".image.abc",
        "image",
        ".images.abcdefg1",
    }
    assert remove_leftovers(place) == 0
    assert remove_leftovers(place / "deeper/absent") == 0


def test_leftovers_of_other_users_are_passed_to_the_remover(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = place.with_name(".image.abcdefg1")
    monkeypatch.setattr(leftovers, "remove_tree", lambda path: shutil.rmtree(path) if path == own else None)
    asked: list[Path] = []
    assert remove_leftovers(place, asked.append) == 2
    assert asked == [place.with_name(".image.old.abcdefg2")]
