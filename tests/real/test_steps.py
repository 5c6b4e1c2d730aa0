"""Reused outputs and cached packages give the same bytes as a build from scratch."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.real.conftest import ROOT as CHECKOUT
from tests.real.conftest import only_full, privml, succeeded

from privml.events import volumes
from privml.image import inputs
from privml.image.unchanged import Question
from privml.output import manifest
from privml.output.artefacts import FIRMWARE, ROOT
from privml.store.digests import MARGIN
from privml.store.objects import Store

pytestmark = pytest.mark.real

WHOLE = {step: {"because": [], "cached": True} for step in (volumes.MODEL.file(0), *inputs.STEPS, *FIRMWARE.values())}


def steps(*words: str) -> dict[str, dict[str, object]]:
    told = json.loads(succeeded(privml("image", "demo-cpu", "--json", *words)).stdout)
    found: dict[str, dict[str, object]] = told["steps"]
    return found


def test_an_unchanged_build_runs_no_step(demo_cpu: Path) -> None:
    assert steps() == WHOLE


def test_a_root_built_on_the_cached_packages_gives_the_same_image(
    demo_cpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packages are installed in this build: their tree comes from the store."""
    monkeypatch.chdir(CHECKOUT)  # where `steps` asks
    found = steps("--output", str(tmp_path / "other"))
    if not found[inputs.BASE]["cached"]:  # the store keeps few trees, and later builds had others
        (tmp_path / "other/root.raw").unlink()
        found = steps("--output", str(tmp_path / "other"))
    assert found[inputs.BASE]["cached"]
    assert not found[ROOT]["cached"]
    assert manifest.read(tmp_path / "other") == manifest.read(demo_cpu)
    # What is young is not noted: the first check notes that nothing changed, the second recalls it.
    time.sleep(MARGIN)
    note = Question(Store(), "demo-cpu", tmp_path / "other", None)
    assert [steps("--output", str(tmp_path / "other")) for _ in range(2)] == [WHOLE] * 2
    assert note.recall() is not None
    (tmp_path / "other/root.raw").unlink()
    assert note.recall() is None
    again = steps("--output", str(tmp_path / "other"))
    assert {name for name, step in again.items() if step["cached"]} == {
        volumes.MODEL.file(0),
        inputs.BASE,
        *FIRMWARE.values(),
    }
    assert manifest.read(tmp_path / "other") == manifest.read(demo_cpu)


@only_full
def test_a_forced_build_uses_no_cache_and_gives_the_same_image(demo_cpu: Path, tmp_path: Path) -> None:
    found = steps("--force", "--output", str(tmp_path / "other"))
    assert not [name for name, step in found.items() if step["cached"]]
    assert manifest.read(tmp_path / "other") == manifest.read(demo_cpu)
