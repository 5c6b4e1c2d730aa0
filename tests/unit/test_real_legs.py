"""Which of the tests' reproductions keep their images, and how long."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.real import conftest

Rebuilt = Callable[..., list[list[str]]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def rebuilt(root: Path, monkeypatch: pytest.MonkeyPatch) -> Rebuilt:
    """Reproduce a recipe with a command that keeps two images where it is told to; the words of each command."""
    asked: list[list[str]] = []

    def privml(*words: str, timeout: float = 0) -> CompletedProcess[str]:
        asked.append(list(words))
        if "--keep" in words:
            for leg in "ab":
                (root / words[words.index("--keep") + 1] / leg).mkdir(parents=True, exist_ok=True)
        if words[0] == "repro" and "--lock" not in words and gone:
            return CompletedProcess(words, 4, json.dumps({"outcome": "inputs-gone"}), "")
        return CompletedProcess(words, int(broken), json.dumps({"outcome": "equal"}), "")

    gone = broken = False

    def call(name: str, *, inputs_gone: bool = False, differs: bool = False) -> list[list[str]]:
        nonlocal gone, broken
        gone, broken = inputs_gone, differs
        conftest.rebuilt(name, root / "page.html")
        return asked

    monkeypatch.setattr(conftest, "privml", privml)
    return call


def test_what_takes_long_is_kept_until_it_is_compared(rebuilt: Rebuilt, root: Path) -> None:
    ((*words,),) = rebuilt("tdx-h100-vllm")
    assert words[-2:] == ["--keep", "out/legs/tdx-h100-vllm"]
    assert not (root / "out/legs/tdx-h100-vllm").exists()


def test_images_that_differ_stay(rebuilt: Rebuilt, root: Path) -> None:
    with pytest.raises(AssertionError, match="exit 1"):
        rebuilt("tdx-h100-vllm", differs=True)
    assert sorted(path.name for path in (root / "out/legs/tdx-h100-vllm").iterdir()) == ["a", "b"]


def test_what_is_published_stays(rebuilt: Rebuilt, root: Path) -> None:
    ((*words,),) = rebuilt("tdx-min")
    assert words[-2:] == ["--keep", "out/legs/tdx-min"]
    assert sorted(path.name for path in (root / "out/legs/tdx-min").iterdir()) == ["a", "b"]


def test_others_are_not_kept(rebuilt: Rebuilt, root: Path) -> None:
    ((*words,),) = rebuilt("demo-cpu")
    assert "--keep" not in words


def test_a_refreshed_image_is_kept_too(rebuilt: Rebuilt) -> None:
    first, lock, second = rebuilt("tdx-h100-vllm", inputs_gone=True)
    assert lock[:2] == ["lock", "tdx-h100-vllm"]
    assert second == [*first, "--lock", "out/locks/tdx-h100-vllm.lock.json"]
