"""A guest of Debian's stable release: kernel from its backports, firmware from the next release, another Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.real.conftest import only_full, privml, succeeded
from tests.real.tamper import extract

from privml.image.render import ROOT_LABEL
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.output.manifest import read
from privml.recipe.distributions import DEBIAN
from privml.recipe.loader import shipped
from privml.vm.ask import await_ready, request
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

RECIPE = """\
schema: 2
description: tdx-min on trixie, with a kernel from its backports and the firmware of the next release.
base: {distribution: debian, release: trixie}
kernel: {package: linux-image-cloud-amd64, suite: trixie-backports}
firmware: {tdx: {package: ovmf-inteltdx, suite: forky}}
agent: {listen: 8443, max_concurrency: 64}
platforms: [qemu-11-q35-one-disk]
shapes: [{vcpus: 2, memory: 2GiB}]
"""


@only_full
def test_an_image_of_trixie_builds_twice_alike_and_boots(tmp_path: Path) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    recipe = tmp_path / "recipes/tdx-trixie.yaml"
    recipe.write_text(RECIPE)
    succeeded(privml("lock", "--allow-expired", str(recipe)))
    lock = json.loads(recipe.with_name("tdx-trixie.lock.json").read_bytes())
    suites = {package["name"]: package["suite"] for package in lock["packages"]}
    assert suites["systemd"].startswith("trixie")
    assert {suite for name, suite in suites.items() if name.startswith("linux-")} == {"trixie-backports"}
    for name in ("one", "two"):
        succeeded(privml("image", str(recipe), "--force", "--output", str(tmp_path / name)))
    assert read(tmp_path / "one").artefacts == read(tmp_path / "two").artefacts

    target, place = resolve(str(recipe), tmp_path / "one"), Workplace()
    tools = place.tools_of(target)
    work = tmp_path / "tree"
    work.mkdir()
    extract(tools, tmp_path / "one/root.raw", ROOT_LABEL, work)
    python = DEBIAN.releases["trixie"].python
    compiled = (work / f"tree/usr/lib/{python}/json/__pycache__").glob("decoder.*")
    tag = python.replace("python", "cpython-").replace(".", "")
    assert [path.name for path in compiled] == [f"decoder.{tag}.pyc"]
    with started(tools, launch_of(target.directory, target.manifest(), shipped())) as machine:
        await_ready(machine, 240)
        assert request(machine, "/readyz", timeout=30)[0] == 200
