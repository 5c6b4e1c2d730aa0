"""Check what the reader says of the GPUs: state, report and certificates of each, against the measured configuration.

This is what the guest can decide without a clock, a network and NVIDIA's reference values: that genuine devices
signed its own nonce, that they work in confidential mode, and that they are the declared ones. Dates, revocation and
reference values are judged by the caller (`verify.nvidia`), whose document has the same evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privml.agent import gpuanswer, wire
from privml.agent.gpuanswer import Reading
from privml.agent.nvml import PRODUCTION, SIMULATION
from privml.base.errors import EvidenceError, HostError
from privml.events.configuration import Gpu
from privml.evidence.document import GPU, DeviceEvidence
from privml.evidence.nvidia import report
from privml.evidence.nvidia.opaque import GpuOpaque

if TYPE_CHECKING:
    from privml.evidence.nvidia.roles import Naming

TIMEOUT = 60.0
_ON, _OFF = 1, 0


class GpuRefused(HostError):
    """The GPUs are not used; ``code`` names the reason."""

    def __init__(self, code: str, found: str, expected: str = "") -> None:
        super().__init__(f"gpu: {code}: {found}" + (f", expected {expected}" if expected else ""))
        self.code = code


@dataclass(frozen=True)
class Anchor:
    """A simulation's root (DER) with the names of its certificates, which replaces NVIDIA's."""

    root: bytes
    naming: Naming


@dataclass(frozen=True)
class CheckedGpu:
    """A GPU that passed: its id, and ``DRIVER/VBIOS``."""

    pdi: bytes
    firmware: str


class GpuReader:
    """Asks the reader behind ``socket`` and checks its answers against the GPUs of the configuration.

    ``simulation`` is the root of simulated GPUs; then only simulated ones pass.
    """

    def __init__(self, socket: Path, gpu: Gpu, *, simulation: Anchor | None = None, timeout: float = TIMEOUT) -> None:
        self._socket = socket
        self._gpu = gpu
        self._simulation = simulation
        self._timeout = timeout

    @property
    def simulated(self) -> bool:
        """Whether the GPUs are simulated."""
        return self._simulation is not None

    def read(self, nonces: Sequence[bytes] = ()) -> Reading:
        """The reader's answer, parsed; ``GpuRefused`` if there is none."""
        try:
            value = wire.ask(
                self._socket,
                gpuanswer.question(nonces),
                timeout=self._timeout,
                limit=gpuanswer.MAX_ANSWER,
                what="reader",
            )
        except (EvidenceError, HostError) as error:
            raise GpuRefused("gpu-answer", error.message) from error
        try:
            return gpuanswer.reading_of(value)
        except EvidenceError as error:
            raise GpuRefused("gpu-answer", error.message) from error
        except HostError as error:
            raise GpuRefused("gpu-driver", error.message) from error

    def evidence(self, nonces: Sequence[bytes], *, ready: bool) -> tuple[DeviceEvidence, ...]:
        """New evidence of each GPU over these nonces, checked; ``ready``: they must be in use already."""
        found = self.read(nonces)
        self.check(found, nonces)
        if ready and not found.ready:
            raise GpuRefused("gpu-ready", "the driver says that the GPUs are not ready", "ready GPUs")
        return found.evidence

    def check(self, found: Reading, nonces: Sequence[bytes]) -> tuple[CheckedGpu, ...]:
        """The GPUs of ``found``, if all of them are as declared; ``GpuRefused`` otherwise."""
        self._check_state(found)
        if len(found.evidence) != self._gpu.count:
            raise GpuRefused("gpu-answer", f"evidence of {len(found.evidence)} GPUs", str(self._gpu.count))
        passed: list[CheckedGpu] = []
        for number, (device, nonce) in enumerate(zip(found.evidence, nonces, strict=True), start=1):
            checked = self._check_device(f"GPU {number}", device, nonce)
            for before, other in enumerate(passed, start=1):
                if other.pdi == checked.pdi:
                    raise GpuRefused(
                        "gpu-duplicate", f"GPU {number} is GPU {before}, {checked.pdi.hex()}", "distinct devices"
                    )
            passed.append(checked)
        return tuple(passed)

    def _check_state(self, found: Reading) -> None:
        count = self._gpu.count
        if len(found.persistent) != count:
            raise GpuRefused("gpu-count", f"the driver has {len(found.persistent)}", str(count))
        state = found.state
        environment = SIMULATION if self.simulated else PRODUCTION
        if (state.environment, state.feature) != (environment, _ON):
            text = f"environment {state.environment}, feature {state.feature}"
            raise GpuRefused("gpu-cc-off", text, f"environment {environment}, feature {_ON}")
        if state.devtools != _OFF:
            raise GpuRefused("gpu-devtools", f"developer tools {state.devtools}", str(_OFF))
        if not all(found.persistent):
            text = f"persistence is off for GPU {found.persistent.index(False) + 1}"
            raise GpuRefused("gpu-persistence", text, "persistence for each GPU")

    def _check_device(self, name: str, device: DeviceEvidence, nonce: bytes) -> CheckedGpu:
        # Only guests with GPUs pay for these imports.
        from privml.evidence.certificates import UnfitError
        from privml.evidence.nvidia import chain, roles

        try:
            claims = report.read(GPU, device.report)
        except EvidenceError as error:
            raise GpuRefused("gpu-report", f"{name}: {error.message}") from error
        if claims.report.nonce != nonce:
            raise GpuRefused("gpu-nonce", f"{name} signed {claims.report.nonce.hex()}", nonce.hex())
        anchor = self._simulation or Anchor(chain.NVIDIA_ROOT_DER, roles.NVIDIA)
        try:
            # The host sets this guest's clock, so no date is looked at.
            read = chain.read(
                GPU,
                device.certificates,
                root=anchor.root,
                naming=anchor.naming,
                now=None,
                verified=roles.Verified(),
            )
        except UnfitError as error:
            raise GpuRefused("gpu-chain", f"{name}: {error.found}", error.expected) from error
        if not read.has_signed(claims.report):
            raise GpuRefused("gpu-signature", f"{name}: an invalid signature", "one by the chain's first key")
        said = claims.said
        assert isinstance(said, GpuOpaque)  # `report.read` reads that of a GPU
        if said.fwid != read.fwid:
            got = "none" if said.fwid is None else said.fwid.hex()
            raise GpuRefused("gpu-fwid", f"{name}: {got}", f"{read.fwid.hex()}, as in its certificate")
        self._check_declared(name, read.family.name, said)
        return CheckedGpu(read.pdi, claims.firmware)

    def _check_declared(self, name: str, architecture: str, said: GpuOpaque) -> None:
        gpu = self._gpu
        if architecture != gpu.architecture:
            raise GpuRefused("gpu-architecture", f"{name}: {architecture}", gpu.architecture)
        if said.driver != gpu.driver:
            raise GpuRefused("gpu-driver", f"{name} has driver {said.driver}", gpu.driver)
        pairs = [f"{each.driver}/{each.vbios}" for each in gpu.allowed]
        if pairs and f"{said.driver}/{said.vbios}" not in pairs:
            raise GpuRefused("gpu-not-allowed", f"{name} has {said.driver}/{said.vbios}", " or ".join(pairs))
