"""The promise itself: two legs of this checkout agree, and are what the checkout says its image is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, privml, succeeded

from privml.repro import current

pytestmark = pytest.mark.real

NAMES = ("tdx-min", "demo-cpu")


def record(name: str) -> Path:
    return ROOT / f"measurements/{name}/current.json"


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_the_recorded_one(name: str, tdx_min: Path, demo_cpu: Path) -> None:
    found = current.of(tdx_min.with_name(name))
    lines = current.differences(record(name).read_bytes(), found)
    renew = f"privml-build repro {name} --record measurements/{name}/current.json"
    assert lines == [], "\n".join([*lines, f"if that is meant: {renew}"])


@pytest.mark.parametrize("name", NAMES)
def test_two_legs_agree_and_are_the_recorded_image(name: str, tmp_path: Path) -> None:
    done = succeeded(privml("repro", name, "--json", "--html", str(tmp_path / "r.html"), timeout=3000))
    report = json.loads(done.stdout)
    assert report["equal"] is True
    assert report["findings"] == []
    assert all(report["compared"].values())
    recorded = json.loads(record(name).read_bytes())["files"]
    assert {name: report["digests"][name] for name in recorded} == {name: [d, d] for name, d in recorded.items()}
    varied = {row["name"] for row in report["variations"] if row["varied"]}
    # What any machine can vary; the rest needs root, memory or a second processor, and says so itself.
    assert {"umask", "HOME", "LC_ALL", "tools tree", "store of inputs"} <= varied
    assert {"wall clock, as `date` in a tool of mkosi saw it", "wall clock, as maintainer scripts wrote it"} <= varied
    assert all(row["why"] for row in report["variations"] if not row["varied"])


def test_inspect_and_diff_tell_of_both_images(demo_cpu: Path, demo_cpu_dev: Path) -> None:
    facts = json.loads(succeeded(privml("inspect", "demo-cpu", "--json")).stdout)
    assert facts["sbom"]["library"] == len(facts["packages"]) + 1
    assert facts["sbom"]["firmware"] == facts["sbom"]["machine-learning-model"] == 1
    told = json.loads(succeeded(privml("diff", str(demo_cpu), str(demo_cpu_dev), "--json"), 1).stdout)
    assert told["registers_moved"] is None  # the development image has another machine
    kinds = {change["kind"] for change in told["changes"]}
    assert "firmware" in kinds  # generic OVMF instead of the TDX build
    assert "model" not in kinds  # the very same volume
