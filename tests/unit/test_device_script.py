"""The script for a borrowed GPU machine, here with a library of our own in the place of the driver's."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cuda_fake
import pytest
from nvml_fake import FakeDriver
from tests.device import kernel, prepare

import privml
from privml.base.errors import UsageError
from privml.events.variants import PRODUCTION
from privml.lock.models import Wheel
from privml.lock.trees import agent_tree
from privml.recipe.compiled import TRITON, record_of
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
    for arguments in ([], ["run"], ["fly", "folder"], ["prepare", "one", "two"], ["run", "one", "two", "three"]):
        done = subprocess.run(["sh", SCRIPT, *arguments], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr.endswith(" prepare FOLDER | run FOLDER [LIBRARY]\n")) == (2, True)


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


# -- the whole of it -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(path.stem for path in DEVICE.glob("*.py")))
def test_each_module_can_be_imported(name: str) -> None:
    importlib.import_module(f"tests.device.{name}")


PTXAS = '#!/bin/sh\n[ "$1 $2 $#" = "-arch=sm_90 -o 4" ] && cp "$4" "$3"\n'


@dataclass(frozen=True)
class Prepared:
    """A folder made from stand-ins, and what the machine may have: a Python without any package, and our libcuda."""

    folder: Path
    endings: list[str]
    python: Path
    libcuda: Path

    def run(
        self, folder: Path, *arguments: Path, environment: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, list[object]]]:
        """The exit status of `gpu.sh run` in ``folder``, and the result and detail of each step."""
        there = {"PYTHON": str(self.python), "PATH": "/usr/bin:/bin", **(environment or {})}
        argv = ["sh", folder / "gpu.sh", "run", folder, *arguments]
        done = subprocess.run(argv, env=there, cwd="/", check=False, capture_output=True, text=True)
        assert done.stderr == "" and (folder / "results.jsonl").read_text() == done.stdout
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {line["step"]: [line["result"], line["detail"]] for line in lines}

    @property
    def driver(self) -> dict[str, str]:
        """The environment in which the loader finds libcuda."""
        return {"LD_LIBRARY_PATH": str(self.libcuda.parent)}


def stand_in(place: Path, **changes: str | None) -> Path:
    """A wheel of Triton that has just what is taken from it."""
    files = {"include/cuda.h": cuda_fake.HEADER, "bin/ptxas": PTXAS}
    with zipfile.ZipFile(place, "w") as wheel:
        for name, text in {**files, **changes}.items():
            if text is not None:
                wheel.writestr(f"{TRITON.folder}/{name}", text)
    return place


def given(wheel: Path) -> prepare.Sources:
    return prepare.Sources(DEVICE.parents[1] / "builder", DEVICE.parents[1] / "images/triton/launcher.c", wheel)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    if shutil.which("gcc") is None:
        pytest.skip("this host has no gcc")
    place = tmp_path_factory.mktemp("device")
    made = place / "made"
    endings = prepare.prepare(made, given(stand_in(place / "triton.whl")), ["no-such-python", sys.executable])
    # What the machine gets is only this folder, somewhere else.
    shutil.copytree(made, place / "there")
    shutil.rmtree(made)
    python = place / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return Prepared(place / "there", endings, python, cuda_fake.compiled(place / "cuda"))


def test_the_folder_has_all_that_a_machine_without_a_network_needs(prepared: Prepared) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").is_file()
    assert prepared.endings == ([suffix] if has_headers else [])
    names = {"cuda.h", "gpu.sh", "kernel.py", "libcuda.c", "package", "privml_launcher.c", "scaled.cubin", "stage.py"}
    names |= {f"{kernel.MODULE}{ending}" for ending in prepared.endings}
    assert {path.name for path in prepared.folder.iterdir()} - {"results.jsonl"} == names
    package = prepared.folder / "package"
    agent = agent_tree(PRODUCTION, given(Path()).builder)
    assert {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()} == {
        each.path for each in agent.files
    }
    assert (prepared.folder / "scaled.cubin").read_bytes() == (DEVICE / "scaled.ptx").read_bytes()


def test_a_machine_without_the_driver_is_told_so(prepared: Prepared, tmp_path: Path) -> None:
    status, steps = prepared.run(prepared.folder, tmp_path / "libnvidia-ml.so.1")
    assert status == 1 and list(steps) == ["machine", "nvml", "kernel"]
    assert steps["nvml"][0] == "failed"
    assert str(steps["nvml"][1]).startswith("gpu: gpu-driver: libnvidia-ml.so.1: ")
    assert str(steps["nvml"][1]).endswith(": cannot open shared object file: No such file or directory")


def loads(name: str) -> bool:
    code = f"import ctypes; ctypes.CDLL({name!r})"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(loads("libnvidia-ml.so.1") or loads("libcuda.so.1"), reason="this host has NVIDIA's driver")
def test_without_a_name_the_libraries_are_those_of_the_loader(prepared: Prepared) -> None:
    status, steps = prepared.run(prepared.folder)
    assert status == 1
    missing = "cannot open shared object file: No such file or directory"
    assert steps["nvml"] == ["failed", f"gpu: gpu-driver: libnvidia-ml.so.1: libnvidia-ml.so.1: {missing}"]
    assert steps["kernel"] == ["skipped", f"libcuda.so.1: {missing}"]


@pytest.mark.parametrize("compiled", ["here", "there"])
def test_with_a_driver_every_step_passes(
    compiled: str, prepared: Prepared, library: FakeDriver, tmp_path: Path
) -> None:
    """The stage by the stand-in of NVML, and the kernel by the true launcher and the stand-in of libcuda."""
    if not prepared.endings:
        pytest.skip("this Python has no Python.h")
    library.has(*sim.evidence(bytes(32)), state="0 0 0")
    folder = shutil.copytree(prepared.folder, tmp_path / "there")
    if compiled == "there":
        (folder / f"{kernel.MODULE}{prepared.endings[0]}").unlink()
    status, steps = prepared.run(folder, library.shared_object, environment=prepared.driver)
    assert status == 0, steps
    assert [steps[name][0] for name in ("machine", "nvml", "stage", "ready", "kernel")] == ["ok"] * 5
    assert steps["kernel"][1] == "1000 values in 8 blocks, all equal"


@pytest.mark.parametrize(
    ("name", "value", "result", "detail"),
    [
        ("CUDA_WRONG", "1", "failed", "999 of 1000 values differ, first 1: got 1.75"),
        ("CUDA_MAJOR", "8", "skipped", "the GPU has compute capability 8.x, and the kernel is for 9.0"),
    ],
)
def test_a_kernel_that_did_not_compute_is_not_ok(
    name: str, value: str, result: str, detail: str, prepared: Prepared, library: FakeDriver
) -> None:
    if not prepared.endings:
        pytest.skip("this Python has no Python.h")
    library.has(*sim.evidence(bytes(32)), state="0 0 0")
    environment = {**prepared.driver, name: value}
    status, steps = prepared.run(prepared.folder, library.shared_object, environment=environment)
    assert (status, steps["kernel"]) == (int(result == "failed"), [result, detail])


def test_a_folder_that_is_there_is_left_alone_and_a_failure_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists"):
        prepare.prepare(tmp_path / "mine", given(stand_in(tmp_path / "one.whl")), [])
    for number, changes in enumerate(({"bin/ptxas": None}, {"bin/ptxas": "#!/bin/sh\nexit 1\n"})):
        wheel = stand_in(tmp_path / f"broken{number}.whl", **changes)
        with pytest.raises((KeyError, subprocess.CalledProcessError)):
            prepare.prepare(tmp_path / "new", given(wheel), [])
    assert not [path for path in tmp_path.iterdir() if "new" in path.name] and not any((tmp_path / "mine").iterdir())


def test_the_wheel_is_the_locked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Wheel] = []
    monkeypatch.setattr(prepare, "Workplace", lambda: SimpleNamespace(store=SimpleNamespace(path=Path)))
    monkeypatch.setattr(prepare, "bring_wheel", lambda _, wheel, __: asked.append(wheel))
    found = prepare.sources()
    (wheel,) = asked
    # The place of cuda.h and ptxas is that of this record.
    record = record_of(wheel.name, wheel.version)
    assert record is not None and record.folder == TRITON.folder
    assert found == prepare.Sources(found.builder, found.launcher, Path(wheel.sha256))
    assert found.launcher.is_file() and (found.builder / "privml").is_dir()


def test_prepare_outside_of_a_checkout_says_what_it_needs(prepared: Prepared, tmp_path: Path) -> None:
    argv = ["sh", prepared.folder / "gpu.sh", "prepare", tmp_path / "new"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, "after `make venv`" in done.stderr) == (2, True)
