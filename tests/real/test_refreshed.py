"""When inputs are unavailable, `make image` says so and replaces them, and every other verb works on the result.

The locks name one guest package and one tools package that no source has. The archive's current version replaces
them; where that is the package of the committed lock, the image must also have the committed image's bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, succeeded
from tests.real.simulation import SIMULATED_ROOT

from privml.base.files import sha256_file
from privml.lock.lockfile import read_lock, read_tools_lock, write_lock
from privml.lock.models import Package
from privml.output.manifest import read

pytestmark = [pytest.mark.real, only_full]

NAME = "demo-cpu-dev"
VICTIM = "netbase"
COMMAND = str(Path(sys.executable).with_name("privml-build"))
OUT = f"out/{NAME}"


def lost(package: Package) -> Package:
    """The same package at a version that no source has."""
    if package.name != VICTIM:
        return package
    return package.model_copy(
        update={
            "version": f"{package.version}~gone",
            "sha256": hashlib.sha256(b"what nobody has").hexdigest(),
            "path": package.path.replace(".deb", "~gone.deb"),
        }
    )


def privml(desk: Path, *words: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose locks name unavailable packages."""
    place = tmp_path_factory.mktemp("refreshed")
    shutil.copytree(ROOT / "recipes", place / "recipes")
    tools = place / "recipes/tools.lock.json"
    known = read_tools_lock(tools)
    write_lock(tools, known.model_copy(update={"packages": tuple(map(lost, known.packages))}))
    path = place / f"recipes/{NAME}.lock.json"
    lock = read_lock(path)
    assert VICTIM in {package.name for package in lock.packages} & {package.name for package in known.packages}
    moved = {"packages": tuple(map(lost, lock.packages)), "tools_sha256": read_tools_lock(tools).digest}
    write_lock(path, lock.model_copy(update=moved))
    return place


@pytest.fixture(scope="module")
def made(desk: Path) -> Path:
    """The result of `make image` there."""
    (desk / "pool").mkdir()
    words = ["--old-file=venv", f"PRIVML={COMMAND}", f"NAME={NAME}", "POOL=pool", "image"]
    done = subprocess.run(
        ["make", "--silent", "-f", str(ROOT / "Makefile"), *words],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{VICTIM} " in done.stderr
    assert "could not be fetched:\n" in done.stderr
    assert "ONLY UNAVAILABLE INPUTS" in done.stderr
    assert len(re.findall(r"1 of \d+ locked packages are gone", done.stderr)) == 2, "the tools' and the guest's"
    assert "the manifest says `refreshed`" in done.stderr
    return desk / OUT


def test_a_refreshed_image_says_so_and_replaces_only_the_unavailable_packages(
    made: Path, demo_cpu_dev: Path, desk: Path
) -> None:
    manifest = read(made)
    assert manifest.refreshed
    own = read_lock(made / f"{NAME}.lock.json")
    committed = read_lock(desk / f"recipes/{NAME}.lock.json")
    changed = {package.name for package in {*committed.packages} ^ {*own.packages}}
    assert changed == {VICTIM}
    assert own.tools_sha256 == read_tools_lock(made / f"{NAME}.tools.lock.json").digest != committed.tools_sha256
    if own.package(VICTIM).sha256 == read_lock(ROOT / f"recipes/{NAME}.lock.json").package(VICTIM).sha256:
        assert manifest.artefacts == read(demo_cpu_dev).artefacts


def test_a_refreshed_image_boots_as_predicted(made: Path, desk: Path) -> None:
    before = (made / "prediction.json").read_bytes()
    for target in (OUT, NAME):
        done = succeeded(privml(desk, "measure", target, "--json"))
        assert len(json.loads(done.stdout)["launches"]) == len(read(made).shapes) * len(read(made).platforms)
        assert (made / "prediction.json").read_bytes() == before
    other = desk / "without"
    shutil.copytree(made, other, ignore=shutil.ignore_patterns("*.lock.json"))
    done = privml(desk, "measure", "without")
    assert done.returncode == 4
    assert "was not built with the committed lock, and its own lock is missing" in done.stderr


def test_a_refreshed_image_answers_and_is_verified(made: Path, desk: Path) -> None:
    machine = subprocess.Popen(
        [COMMAND, "run", OUT], cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    watch = threading.Timer(400, machine.kill)
    watch.start()
    try:
        assert machine.stdout is not None
        address = machine.stdout.readline()
        found = re.match(r"(https://127\.0\.0\.1:\d+)/v1 ", address)
        assert found is not None, address
        words = ["verify", found[1], "--expect", OUT, "--allow-simulated", str(SIMULATED_ROOT)]
        done = succeeded(privml(desk, *words), 10)
        assert "accepted" in done.stdout + done.stderr
    finally:
        watch.cancel()
        machine.send_signal(signal.SIGINT)
        machine.communicate(timeout=60)


def test_a_refreshed_image_is_reproducible_from_its_own_locks(made: Path, desk: Path) -> None:
    done = succeeded(privml(desk, "repro", OUT, "--json"))
    report = json.loads(done.stdout)
    assert report["equal"] is True
    assert report["digests"]["manifest.json"] == [sha256_file(made / "manifest.json")] * 2
    # By the committed lock there is nothing to build from.
    assert privml(desk, "repro", NAME).returncode == 4
