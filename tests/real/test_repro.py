"""The reproducibility promise: two legs of this checkout agree with each other and with the recorded digests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import privml, succeeded

from privml.repro import current

pytestmark = pytest.mark.real

NAMES = ("tdx-min", "demo-cpu")
Reports = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", NAMES)
def test_two_builds_in_different_surroundings_are_equal(name: str, reports: Reports) -> None:
    report = reports(name)
    assert report["outcome"] in ("equal", "refreshed")
    assert report["equal"] is True
    assert report["findings"] == []
    assert all(report["compared"].values())
    varied = {row["name"] for row in report["variations"] if row["varied"]}
    # What any machine can vary; the rest needs root, memory or a second processor, and says so itself.
    assert {"umask", "HOME", "LC_ALL", "tools tree", "input store"} <= varied
    assert "wall clock of mkosi's tools (`date`)" in varied
    assert "wall clock of maintainer scripts" in varied
    assert all(row["why"] for row in report["variations"] if not row["varied"])


@pytest.mark.parametrize("name", NAMES)
def test_the_image_has_the_recorded_digests(name: str, reports: Reports) -> None:
    record = reports(name)["record"]
    if record["state"] == "refreshed":
        pytest.skip(f"inputs-gone: {name} is refreshed, so {record['path']} says nothing of it; its legs agree")
    text = "\n".join([*record["differences"], f"if this is intended: {record['renew']}"])
    assert record["state"] == "equal", text


def test_an_image_installed_from_a_leg_is_used_by_later_steps(reports: Reports, demo_cpu: Path) -> None:
    report = reports("demo-cpu")
    digests = json.loads(current.of(demo_cpu))["files"]
    assert {name: report["digests"][name] for name in digests} == {name: [d, d] for name, d in digests.items()}
    if not report["refreshed"]:
        done = succeeded(privml("image", "demo-cpu", "--json"))
        assert json.loads(done.stdout)["cached"] is True


def test_inspect_and_diff_describe_both_images(demo_cpu: Path, demo_cpu_dev: Path) -> None:
    facts = json.loads(succeeded(privml("inspect", "demo-cpu", "--json")).stdout)
    assert facts["sbom"]["library"] == len(facts["packages"]) + 1
    assert facts["sbom"]["firmware"] == 2  # one for each TEE
    assert facts["sbom"]["machine-learning-model"] == 1
    told = json.loads(succeeded(privml("diff", str(demo_cpu), str(demo_cpu_dev), "--json"), 1).stdout)
    assert told["registers_moved"] == ["launch"]  # as a TD, the development image has another machine
    kinds = {change["kind"] for change in told["changes"]}
    assert "firmware" in kinds  # generic OVMF instead of the TDX build
    assert not {"model", "model volume", "model file"} & kinds  # the very same volume
    fields = {change["name"] for change in told["changes"] if change["kind"] == "recipe field"}
    assert fields == {"description", "variant", "firmware.tdx.package", "platforms"}
    assert [change for change in told["changes"] if change["explained"] is False] == []
