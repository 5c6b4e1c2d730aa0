"""The field test on the simulation: it runs to its end, and what it writes is readable, complete, and no evidence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.field import archive
from tests.field.receive import accept
from tests.field.record import BUNDLE, CAPTURE, FACTS, FILES, LAUNCH, PAGE, PASSED, PLATFORM, RECORD
from tests.real.conftest import ROOT, only_full

from privml.base.errors import Refused

pytestmark = pytest.mark.real


@only_full
def test_a_simulated_field_test_runs_to_its_end_and_is_no_evidence(demo_cpu_dev: Path, tmp_path: Path) -> None:
    words = [
        str(ROOT / "tests/field/run.sh"),
        "--simulation",
        "--image",
        str(demo_cpu_dev),
        "--output",
        str(tmp_path),
    ]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=env, timeout=1900, check=False)
    assert done.returncode == 10, done.stdout + done.stderr
    assert "SIMULATION, no evidence of hardware: all 5 registers are the predicted ones" in done.stdout
    found = archive.read(tmp_path / "field-simulation.tar")
    assert found.report.origin == "simulated"
    assert set(found.files) == {BUNDLE, CAPTURE, FACTS, LAUNCH, PLATFORM} <= set(FILES) - {RECORD, PAGE}
    other = {step.name for step in found.report.steps if step.result != PASSED}
    assert other <= {"doctor", "gpu", "replay"}
    assert "completion_16_tokens_ms" in found.report.bench
    assert "SIMULATION" in (tmp_path / "field.html").read_text()
    with pytest.raises(Refused, match="a simulation"):
        accept(found, "simulated")
