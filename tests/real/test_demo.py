"""The demo, as `make demo` runs it: accepted once, refused three times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures.all import RECORDING
from tests.pictures.terminal import comparable
from tests.real.conftest import ROOT, only_full

pytestmark = pytest.mark.real


@pytest.mark.parametrize("tee", ["tdx", pytest.param("snp", marks=only_full)])
def test_the_demo_accepts_the_honest_image_and_refuses_the_others(demo_cpu_dev: Path, tee: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.demo"],
        cwd=ROOT, env={**os.environ, "TEE": tee}, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    relaxed = "" if tee == "tdx" else ", relaxed: acpi-unmeasured ACPI tables of the host"
    assert f"accepted-simulated{relaxed}: demo-cpu-dev" in done.stdout
    assert "as it was: " in done.stdout
    assert "with another word in the answer: " in done.stdout
    assert "sealed prompt: neither in nginx's log nor in its memory" in done.stdout
    assert "open prompt: in nginx's log" in done.stdout
    assert "the broker released model/smollm2 generation 1" in done.stdout
    assert "refuse model/smollm2" in done.stdout
    for act in ("one more word", "prompt logger", "another model"):
        assert f"{act}: refused" in done.stdout
    if tee == "tdx" and RECORDING.is_file():
        assert comparable(RECORDING.read_text()) == comparable(done.stdout), "run `make recording`"
