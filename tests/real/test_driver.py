"""The driver of a GPU, compiled and booted: `make check-gpu`. `make check` only compares what is there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, privml, rebuilt, succeeded
from tests.real.gpuvariant import development
from tests.real.simulation import SIMULATED_ROOT
from tests.real.test_channel import built_tree, vectors
from tests.unit.nvml_fake import reader_code, reader_service

from privml.agent.gpuanswer import Question
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.events.gpus import Gpu
from privml.image import driver, driverrecord
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock import deb
from privml.lock.lockfile import read_lock
from privml.lock.models import Driver
from privml.output import manifest

pytestmark = pytest.mark.real
only_gpu = pytest.mark.skipif(os.environ.get("PRIVML_GPU") != "1", reason="minutes more: `make check-gpu` does it")
NAME = "tdx-gpu-min"


@pytest.fixture
def locked() -> Driver:
    found = read_lock(ROOT / f"recipes/{NAME}.lock.json").driver
    assert found is not None
    return found


def test_kept_modules_are_those_of_the_record(locked: Driver, tmp_path: Path) -> None:
    place = Workplace()
    if not driver.is_kept(locked, place.store):
        pytest.skip("the store has no modules of this driver; compiling them takes minutes: `make check-gpu`")
    made = driver.modules_of(locked, place.store, place.tools(ROOT / f"recipes/{NAME}.yaml"), tmp_path / "driver")
    assert driverrecord.digests_of(made) == driverrecord.recorded(locked)


@only_gpu
def test_two_builds_that_compile_the_driver_are_equal_and_recorded(tmp_path: Path) -> None:
    """Each leg compiles, and its build fails if the modules are not those of the record."""
    report = rebuilt(NAME, tmp_path / "report.html")
    assert report["outcome"] == "equal"
    assert report["record"]["state"] == "equal", report["record"]
    found = manifest.read(ROOT / "out" / NAME)
    assert found.gpus is not None and (found.gpus.architecture, found.gpus.count) == ("hopper", 1)
    assert "lockdown" not in found.cmdline
    names = {part["name"] for part in json.loads((ROOT / "out" / NAME / "sbom.cdx.json").read_bytes())["components"]}
    assert {"libcuda1", "firmware-nvidia-gsp", "nvidia-open-kernel-source"} <= names


@only_gpu
def test_the_guest_loads_the_driver_and_is_parked_without_a_gpu() -> None:
    succeeded(privml("image", NAME))
    done = privml("run", NAME, "--console", "--timeout", "600", timeout=900)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "guest stage `gpu` failed: gpu: recipe declares 1 GPU, found 0" in said
    # The module's own message: all its symbols were resolved, and its initialisation ran.
    assert "NVRM: No NVIDIA GPU found." in said
    assert not re.search(r"Failed to insert module 'nvidia|Operation not permitted|Unknown symbol", said), said


@only_gpu
def test_a_development_image_is_ready_with_simulated_gpus(tmp_path: Path) -> None:
    """Units, users, sockets and sandboxes of the stage `gpu` in a guest; the library and the device are simulated."""
    image = tmp_path / "gpu-dev"
    succeeded(privml("image", str(development(NAME, tmp_path)), "--output", str(image)))
    command = [str(Path(sys.executable).with_name("privml-build")), "run", str(image), "--timeout", "600"]
    machine = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = threading.Timer(700, machine.kill)
    watch.start()
    try:
        assert machine.stdout is not None
        found = re.match(r"(https://127\.0\.0\.1:\d+) attests only", machine.stdout.readline())
        assert found is not None
        words = ("--expect", str(image), "--allow-simulated", str(SIMULATED_ROOT), "--offline", "--json")
        verdict = json.loads(succeeded(privml("verify", found[1], *words), 8).stdout)
    finally:
        watch.cancel()
        machine.send_signal(signal.SIGINT)
        said = machine.communicate(timeout=60)[1]
    assert "stage gpu: ok" in said
    # New evidence of the GPU is in the document, and all of it holds but that it is no device's.
    assert [each["code"] for each in verdict["refusals"]] == ["gpu-simulated"]


@only_gpu
def test_its_python_passes_the_vectors_of_the_channel(tools: ToolsTree, tmp_path: Path) -> None:
    """The root of a Debian 13 guest, whose `cryptography` has no ML-KEM."""
    succeeded(privml("image", NAME))
    found = vectors(built_tree(tools, ROOT / "out" / NAME, tmp_path))
    assert (found["mlkem"], found["kems"]) == ("libcrypto.so.3", ["x-wing", "x25519"])


@only_gpu
def test_nvidias_own_library_says_that_there_is_no_driver(locked: Driver, tmp_path: Path) -> None:
    """The library of the image, as the guest's reader loads it; only the driver and the GPU are missing."""
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this host has NVIDIA's driver")
    succeeded(privml("image", NAME))  # its packages are in the store then
    (part,) = [each for each in locked.record.parts if each.package == "libnvidia-ml1"]
    ((inside, target),) = part.files.items()
    library = tmp_path / Path(target).name
    package = next(each for each in locked.parts if each.name == part.package)
    with deb.tar_of(Workplace().store.read(package.sha256), "data.tar", str(package)) as archive:
        entries = {entry.name.removeprefix("./"): entry for entry in archive}
        file = archive.extractfile(entries[inside])
        assert file is not None
        library.write_bytes(file.read())
    for missing in ("nvmlDeviceGetConfComputeGpuAttestationReport", "nvmlSystemSetConfComputeGpusReadyState"):
        assert missing.encode() in library.read_bytes()
    gpu = Gpu("nvidia", "hopper", 1, locked.version)
    with reader_service(tmp_path / "reader.sock", reader_code(library)), pytest.raises(GpuRefused) as refused:
        GpuReader(tmp_path / "reader.sock", gpu).evidence(Question((bytes(32),)), ready=False)
    assert refused.value.message == "gpu: gpu-driver: nvmlInit_v2: status 9, the driver is not loaded"
