"""The script for a borrowed GPU machine, here with a library of our own in the place of the driver's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_fake import FakeDriver

import privml
from privml.sim import gpu as sim

DEVICE = Path(__file__).parents[1] / "device"
SCRIPT = DEVICE / "gpu.sh"


def stage(library: FakeDriver) -> tuple[int, dict[str, tuple[str, object]]]:
    """The exit status of the stage's program, and the result and detail of each of its steps."""
    path = os.pathsep.join([str(Path(privml.__file__).parents[1]), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-B", DEVICE / "stage.py", library.shared_object],
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {line["step"]: (line["result"], line["detail"]) for line in lines}


@pytest.mark.parametrize(
    ("state", "code"),
    [("0 0 0", "gpu-cc-off"), ("2 0 0", "gpu-cc-off"), ("2 1 1", "gpu-devtools")],
    ids=["off", "feature-off", "devtools"],
)
def test_gpus_that_are_not_confidential_must_be_refused_by_name(library: FakeDriver, state: str, code: str) -> None:
    library.has(*sim.evidence(bytes(32)), state=state)
    status, steps = stage(library)
    assert status == 0, steps
    assert steps["stage"][0] == "ok" and str(steps["stage"][1]).startswith(f"gpu: {code}: ")
    assert steps["ready"][0] == "ok" and "not confidential" in str(steps["ready"][1])
    assert not (library.place / "ready").exists()


def test_evidence_that_is_not_genuine_fails_the_script(library: FakeDriver) -> None:
    library.has(*sim.evidence(bytes(32)))
    status, steps = stage(library)
    assert status == 1
    assert steps["stage"][0] == "failed" and str(steps["stage"][1]).startswith("gpu: gpu-nonce: ")
    assert not (library.place / "ready").exists()


def test_a_driver_that_is_not_loaded_is_named(library: FakeDriver) -> None:
    library.says(init=9)
    status, steps = stage(library)
    library.says(init=0)
    assert status == 1
    assert steps["nvml"] == ("failed", "gpu: gpu-driver: nvmlInit_v2: status 9, the driver is not loaded")


def test_the_shell_script_is_well_formed_and_says_how_it_is_used() -> None:
    assert subprocess.run(["sh", "-n", SCRIPT], check=False).returncode == 0
    assert os.access(SCRIPT, os.X_OK)
    if found := shutil.which("shellcheck"):
        assert subprocess.run([found, SCRIPT], check=False, capture_output=True, text=True).stdout == ""
    for arguments in ([], ["run"], ["fly", "folder"]):
        done = subprocess.run(["sh", SCRIPT, *arguments], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr.endswith("prepare|run FOLDER\n")) == (2, True)


def test_a_run_keeps_the_lines_of_all_steps_and_fails_if_one_does(tmp_path: Path) -> None:
    for name, text, status in (("stage", "one", 1), ("kernel", "two", 0)):
        (tmp_path / f"{name}.py").write_text(f"print('{text}')\nraise SystemExit({status})\n")
    run = ["sh", SCRIPT, "run", tmp_path]
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(run, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "one\ntwo\n")
    assert (tmp_path / "results.jsonl").read_text() == done.stdout
    (tmp_path / "stage.py").write_text("")
    assert subprocess.run(run, env=environment, check=False, capture_output=True).returncode == 0
