"""The image of vLLM, built from its wheels and booted without a GPU: `make check-gpu`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tests.real import smollm2
from tests.real.conftest import ROOT, privml, rebuilt, succeeded
from tests.real.gpuvariant import development
from tests.real.tamper import extract

from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.output import manifest
from privml.recipe.compiled import TRITON
from privml.recipe.python import DIRECTORY

NAME = "tdx-h100-vllm"
MODEL = ROOT / "models/smollm2"
MAX_ROOT = 5_500_000_000
COMPILERS = re.compile(r"(gcc|g\+\+|cc|c\+\+|clang|tcc|nvcc|cc1|as|ld|sh|bash|dash)(-[0-9.]+)?")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.environ.get("PRIVML_GPU") != "1", reason="an hour or two, 45 GB of disk: `make check-gpu`"),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """out/tdx-h100-vllm: leg a of two cold builds, which are equal."""
    if not MODEL.is_dir():
        smollm2.convert(MODEL)
    report = rebuilt(NAME, tmp_path_factory.mktemp(NAME) / "report.html", timeout=3 * 3600)
    assert report["outcome"] == "equal", report
    assert report["record"]["state"] == "equal", report["record"]
    return ROOT / "out" / NAME


def test_the_root_is_bounded_and_its_parts_are_named(image: Path) -> None:
    found = manifest.read(image)
    assert found.engine is not None and (found.engine.name, found.engine.version) == ("vllm", "0.19.1")
    assert found.gpus is not None and found.gpus.count == 1
    assert (image / "root.raw").stat().st_size <= MAX_ROOT
    names = {part["name"] for part in json.loads((image / "sbom.cdx.json").read_bytes())["components"]}
    assert {"vllm", "torch", "triton", "libcuda1", "libnvidia-pkcs11-openssl3", "firmware-nvidia-gsp"} <= names


def test_the_root_has_a_changed_triton_and_no_compiler(image: Path, tmp_path: Path) -> None:
    place = Workplace()
    extract(place.tools(ROOT / f"recipes/{NAME}.yaml"), image / "root.raw", "privml-root", tmp_path)
    root = tmp_path / "tree"
    locked = read_lock(image / f"{NAME}.lock.json").compiled
    assert locked is not None
    wheels = root / DIRECTORY
    assert hashlib.sha256((wheels / TRITON.path).read_bytes()).hexdigest() == locked.changed.after
    modules = sorted(path.name.partition(".")[0] for path in (wheels / TRITON.folder).glob("*.so"))
    assert modules == sorted(TRITON.modules)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    programs = {path for path in files if path.stat().st_mode & 0o111}
    of_wheels = {str(path.relative_to(wheels)) for path in programs if path.is_relative_to(wheels)}
    assert of_wheels == {f"{TRITON.folder}/bin/ptxas"}
    assert not [path for path in programs if COMPILERS.fullmatch(path.name)]
    assert sorted(path.name for path in (root / "usr/lib/nvidia").glob("*.550.163.01"))
    # Compiled when the image is built, and never compared with the time of a source.
    compiled = [path for path in files if path.suffix == ".pyc" and path.is_relative_to(wheels)]
    assert wheels / "vllm/__pycache__/version.cpython-313.pyc" in compiled
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\1\0\0\0"}


def test_the_guest_is_parked_without_a_gpu(image: Path) -> None:
    done = privml("run", str(image), "--console", "--timeout", "900", timeout=1200)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "guest stage `gpu` failed: gpu: recipe declares 1 GPU, found 0" in said
    assert "NVRM: No NVIDIA GPU found." in said


def test_with_a_simulated_gpu_the_engine_says_why_it_ends(image: Path, tmp_path: Path) -> None:
    """A development variant: every stage up to the engine, which then finds no device of CUDA. Minutes of imports."""
    shutil.copytree(MODEL, tmp_path / "models" / "smollm2")
    recipe = development(NAME, tmp_path, shapes=[{"vcpus": 2, "memory": "8GiB"}])
    built = tmp_path / "gpu-dev"
    succeeded(privml("image", str(recipe), "--output", str(built), timeout=3600))
    done = privml("run", str(built), "--console", "--timeout", "3000", timeout=3600)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "privml: stage gpu: ok: SIMULATED: 1 x hopper" in said
    # The line is vLLM's own.
    assert re.search(
        r"guest stage `engine` failed: engine: exited before it was ready; it said last: RuntimeError: .*device", said
    ), said
