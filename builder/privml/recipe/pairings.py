"""What is publicly known of versions that do not go together: GPU drivers, CUDA, engines, models. Data, with sources.

Advisories about one driver alone are in ``drivers``. A row is added when a source says it, or when it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from privml.engines.engine import Engine, Versions, numbers
from privml.recipe import nativekernels

_VLLM = "vllm"


@dataclass(frozen=True)
class Cuda:
    """The CUDA that an engine's wheels are for: its major version, and the PTX of kernels that are there as PTX only.

    ``ptx`` is None if it was not measured.
    """

    engine: str
    versions: Versions
    major: int
    ptx: tuple[int, int] | None
    source: str


CUDA = (
    Cuda(_VLLM, Versions((0, 19), (0, 20)), 12, (8, 8), "cuobjdump of vllm 0.19.1: `.version 8.8`"),
    Cuda(_VLLM, Versions((0, 20), (0, 34)), 13, None, "vllm 0.20.0 and 0.33.0 require nvidia-cublas 13"),
)
OLDEST_DRIVER = {12: (525,), 13: (580,)}
"""The first driver for each major version of CUDA (NVIDIA, CUDA Compatibility, minor version compatibility)."""
NEWEST_PTX = (
    ((525,), (8, 0)), ((530,), (8, 1)), ((535,), (8, 2)), ((545,), (8, 3)), ((550,), (8, 4)), ((555,), (8, 5)),
    ((565,), (8, 6)), ((570,), (8, 7)), ((575,), (8, 8)), ((580,), (9, 0)), ((590,), (9, 1)),
)  # fmt: skip
"""The newest PTX that drivers from a version on compile (NVIDIA, PTX ISA, release notes)."""


@dataclass(frozen=True)
class Fault:
    """A known fault of an engine's versions on GPUs with confidential computing, and where it is reported.

    One that the engine's record avoids says how: by variables of its environment, or by flags that it never uses.
    """

    engine: str
    versions: Versions
    what: str
    source: str
    environment: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def avoided(self) -> bool:
        """Whether the engine's record avoids it, so that a recipe need not care."""
        return bool(self.environment or self.unused)


FAULTS = (
    Fault(
        _VLLM,
        Versions((0, 19), (0, 34)),
        "the V2 model runner reads stale host memory, so that answers are noise",
        "vllm-project/vllm#57224",
        environment={"VLLM_USE_V2_MODEL_RUNNER": "0"},
    ),
    Fault(
        _VLLM,
        Versions((0, 19), (0, 34)),
        "cudaHostRegister is not allowed, on which every way to keep the context's cache in the CPU's memory depends",
        "vllm-project/vllm#55428",
        unused=("--kv-offloading-size", "--kv-offloading-backend", "--kv-transfer-config", "--cpu-offload-gb"),
    ),
    Fault(
        _VLLM,
        Versions((0, 27), (0, 30)),
        "decoding was 3.3 times slower in 0.29.0 than in 0.26.0, and not without confidential computing",
        "vllm-project/vllm#57680",
    ),
)


def cuda_of(engine: Engine, version: str) -> Cuda | None:
    """The CUDA of an engine's version; None if it has none, or it is not known."""
    return next((each for each in CUDA if each.engine == engine.name and each.versions.accept(version)), None)


def against_driver(engine: Engine, version: str, driver: str) -> str | None:
    """Say why a driver is too old for an engine's version; None if nothing is known."""
    cuda = cuda_of(engine, version)
    if cuda is None or numbers(driver) >= OLDEST_DRIVER[cuda.major]:
        return None
    oldest = ".".join(map(str, OLDEST_DRIVER[cuda.major]))
    wheels = f"{engine.name} {version} is for CUDA {cuda.major} ({cuda.source})"
    return f"got {driver}, but {wheels}: expected {oldest} or later"


def faults_of(engine: Engine, version: str) -> Iterator[Fault]:
    """The known faults of an engine's version that its record does not avoid."""
    for fault in FAULTS:
        if fault.engine == engine.name and fault.versions.accept(version) and not fault.avoided:
            yield fault


def against_model(engine: Engine, version: str, driver: str, config: Mapping[str, Any]) -> str | None:
    """Say why a model cannot run: it needs kernels that may be there as PTX only, too new for the driver.

    ``config`` is the model's config.json. None if all that it needs is known to have native code.
    """
    cuda = cuda_of(engine, version)
    if cuda is None or cuda.ptx is None or _ptx(driver) >= cuda.ptx:
        return None
    missing = nativekernels.missing(config)
    if missing is None:
        return None
    needed, known = (".".join(map(str, each)) for each in (cuda.ptx, _ptx(driver)))
    oldest = ".".join(map(str, next(first for first, ptx in NEWEST_PTX if ptx >= cuda.ptx)))
    return (
        f"{missing.what}, for which {engine.name} {version} is not known to have native code for the GPU, and its "
        f"PTX is {needed} ({cuda.source}), of which the driver {driver} compiles up to {known}: expected "
        f"{missing.expected}, or driver {oldest} or later"
    )


def _ptx(driver: str) -> tuple[int, int]:
    return max((ptx for first, ptx in NEWEST_PTX if first <= numbers(driver)), default=(0, 0))
