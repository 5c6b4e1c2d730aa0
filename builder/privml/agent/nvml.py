"""NVIDIA's management library, as far as a guest needs it. Only short-lived processes without keys load it.

Layouts are those of the driver's `nvml.h`: little-endian u32 fields with natural alignment. Whatever the library or a
GPU says is checked by the process that asked (`agent.gpucheck`), not here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from privml.base.errors import PrivmlError

LIBRARY = Path("/usr/lib/nvidia/libnvidia-ml.so.1")
"""Where the image has the library (`recipe.drivers`)."""

NONCE_SIZE = 32
MAX_REPORT = 0x2000
MAX_CERTIFICATES = 0x1400
SIMULATION = 1
PRODUCTION = 2
"""Values of the environment; 0 means that confidential computing is unavailable."""
PROTECTED_PCIE = 1
"""The multi-GPU mode of a board in protected PCIe mode; 0 means none."""

_ON = 1
_COMPLETED = 3
_NOT_SUPPORTED = 3
_TEXTS = {
    1: "not initialised",
    2: "invalid argument",
    _NOT_SUPPORTED: "not supported",
    4: "no permission",
    6: "not found",
    9: "the driver is not loaded",
    10: "timeout",
    15: "the GPU is lost",
    16: "the GPU must be reset",
    18: "driver and library have different versions",
    999: "unknown error",
}


class NvmlError(PrivmlError):
    """A call of the library failed (``status``), or its answer does not fit its own structure."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ComputeState(ctypes.Structure):
    """``nvmlConfComputeSystemState_t``."""

    _fields_ = (("environment", ctypes.c_uint), ("feature", ctypes.c_uint), ("devtools", ctypes.c_uint))


class Certificate(ctypes.Structure):
    """``nvmlConfComputeGpuCertificate_t``."""

    _fields_ = (
        ("chain_size", ctypes.c_uint),
        ("attestation_chain_size", ctypes.c_uint),
        ("chain", ctypes.c_ubyte * 0x1000),
        ("attestation_chain", ctypes.c_ubyte * MAX_CERTIFICATES),
    )


class Attestation(ctypes.Structure):
    """``nvmlConfComputeGpuAttestationReport_t``; the caller sets ``nonce``."""

    _fields_ = (
        ("cec_present", ctypes.c_uint),
        ("report_size", ctypes.c_uint),
        ("cec_size", ctypes.c_uint),
        ("nonce", ctypes.c_ubyte * NONCE_SIZE),
        ("report", ctypes.c_ubyte * MAX_REPORT),
        ("cec", ctypes.c_ubyte * 0x1000),
    )


class Settings(ctypes.Structure):
    """``nvmlSystemConfComputeSettings_v1_t``; the caller sets ``version``."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("environment", ctypes.c_uint),
        ("feature", ctypes.c_uint),
        ("devtools", ctypes.c_uint),
        ("multi_gpu", ctypes.c_uint),
    )


class FabricInfo(ctypes.Structure):
    """``nvmlGpuFabricInfo_v2_t``; the caller sets ``version``."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("cluster", ctypes.c_ubyte * 16),
        ("status", ctypes.c_uint),
        ("clique", ctypes.c_uint),
        ("state", ctypes.c_ubyte),
        ("health", ctypes.c_uint),
    )


@dataclass(frozen=True)
class State:
    """The confidential computing state of the machine's GPUs, in the driver's numbers.

    ``multi_gpu`` is `PROTECTED_PCIE` for a board in that mode; it was asked for only if the caller needs it.
    """

    environment: int
    feature: int
    devtools: int
    multi_gpu: int = 0

    @property
    def is_confidential(self) -> bool:
        """True for a production environment with developer tools off, and either confidential computing on or
        protected PCIe, in which NVIDIA's own verifier does not look at the feature.
        """
        on = self.feature == _ON or self.multi_gpu == PROTECTED_PCIE
        return on and (self.environment, self.devtools) == (PRODUCTION, 0)


class Nvml:
    """The library at ``path``, initialised within a ``with`` block."""

    def __init__(self, path: Path = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NvmlError(f"{path.name}: {error}") from error

    def __enter__(self) -> Self:
        self._call("nvmlInit_v2")
        return self

    def __exit__(self, *_: object) -> None:
        self._library.nvmlShutdown()

    def state(self) -> State:
        """The confidential computing state; all zero for GPUs or a driver without it."""
        found = ComputeState()
        try:
            self._call("nvmlSystemGetConfComputeState", ctypes.byref(found))
        except NvmlError as error:
            if error.status != _NOT_SUPPORTED:
                raise
            return State(0, 0, 0)
        return State(found.environment, found.feature, found.devtools)

    def state_of_board(self) -> State:
        """The confidential computing state with the multi-GPU mode, which only a newer call has."""
        found = Settings(version=_versioned(Settings, 1))
        self._call("nvmlSystemGetConfComputeSettings", ctypes.byref(found))
        return State(found.environment, found.feature, found.devtools, found.multi_gpu)

    def has_joined(self, gpu: ctypes.c_void_p) -> bool:
        """Whether the GPU is registered with the NVLink fabric, before which CUDA does not start."""
        found = FabricInfo(version=_versioned(FabricInfo, 2))
        self._call("nvmlDeviceGetGpuFabricInfoV", gpu, ctypes.byref(found))
        return (found.state, found.status) == (_COMPLETED, 0)

    def is_ready(self) -> bool:
        """Whether the GPUs accept work from clients."""
        found = ctypes.c_uint()
        self._call("nvmlSystemGetConfComputeGpusReadyState", ctypes.byref(found))
        return found.value == _ON

    def set_ready(self) -> None:
        """Let the GPUs accept work. Refused unless they are confidential, whoever asks."""
        state = self.state()
        if state == State(PRODUCTION, 0, 0):  # as in protected PCIe mode
            state = self.state_of_board()
        if not state.is_confidential:
            raise NvmlError(f"the GPUs are not confidential, so they are not set ready: {state}")
        self._call("nvmlSystemSetConfComputeGpusReadyState", ctypes.c_uint(_ON))

    def count(self) -> int:
        """The number of GPUs."""
        found = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(found))
        return found.value

    def gpu(self, index: int) -> ctypes.c_void_p:
        """The handle of a GPU."""
        found = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(found))
        return found

    def is_persistent(self, gpu: ctypes.c_void_p) -> bool:
        """Whether the driver keeps the GPU's state while no client uses it."""
        found = ctypes.c_uint()
        self._call("nvmlDeviceGetPersistenceMode", gpu, ctypes.byref(found))
        return found.value == _ON

    def certificates(self, gpu: ctypes.c_void_p) -> bytes:
        """The PEM chain of the key that signs reports."""
        found = Certificate()
        self._call("nvmlDeviceGetConfComputeGpuCertificate", gpu, ctypes.byref(found))
        return _bytes(found.attestation_chain, found.attestation_chain_size, "certificate chain")

    def report(self, gpu: ctypes.c_void_p, nonce: bytes) -> bytes:
        """A new attestation report over ``nonce`` (32 bytes)."""
        found = Attestation(nonce=(ctypes.c_ubyte * NONCE_SIZE)(*nonce))
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport", gpu, ctypes.byref(found))
        return _bytes(found.report, found.report_size, "report")

    def _call(self, name: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise NvmlError(f"{name}: the library does not have it") from error
        code = int(function(*arguments))
        if code:
            raise NvmlError(f"{name}: status {code}, {_TEXTS.get(code, 'see nvml.h')}", status=code)


def _versioned(structure: type[ctypes.Structure], version: int) -> int:
    """The value of a structure's version field: its size and version."""
    return ctypes.sizeof(structure) | version << 24


def _bytes(field: ctypes.Array[ctypes.c_ubyte], size: int, what: str) -> bytes:
    """The first ``size`` bytes of a field; the size is the library's word."""
    if not 0 < size <= len(field):
        raise NvmlError(f"{what}: got {size} bytes, expected 1 to {len(field)}")
    return bytes(field[:size])
