"""Check what the reader says of GPUs and switches: state, report and certificates of each, against the configuration.

This is what the guest can decide without a clock, a network and NVIDIA's reference values: that genuine devices
signed its own nonce, that they work in confidential mode, and that they are the declared ones. Dates, revocation and
reference values are judged by the caller (`verify.nvidia`), whose document has the same evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privml.agent import gpuanswer, wire
from privml.agent.gpuanswer import Question, Reading
from privml.agent.nscq import LOCKED
from privml.agent.nvml import PRODUCTION, PROTECTED_PCIE, SIMULATION
from privml.base.errors import EvidenceError, HostError
from privml.events.gpus import Gpu
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import report, topology
from privml.evidence.nvidia.opaque import GpuOpaque, SwitchOpaque

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
class Checked:
    """A device that passed: its name in messages, its id, its family, what its report says, and its firmware."""

    name: str
    pdi: bytes
    family: str
    said: GpuOpaque | SwitchOpaque
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

    def question(self, nonce: Callable[[], bytes] | None = None) -> Question:
        """The question for evidence of each device over a nonce of ``nonce``; without it, for the state alone."""
        gpu = self._gpu
        gpus, switches = (gpu.count, gpu.switches) if nonce is not None else (0, 0)
        given = [nonce() if nonce is not None else b"" for _ in range(gpus + switches)]
        return Question(tuple(given[:gpus]), tuple(given[gpus:]) if gpu.switches else None)

    def read(self, asked: Question | None = None) -> Reading:
        """The reader's answer, parsed; ``GpuRefused`` if there is none."""
        try:
            value = wire.ask(
                self._socket,
                (asked or self.question()).encode(),
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

    def evidence(self, asked: Question, *, ready: bool) -> tuple[DeviceEvidence, ...]:
        """New evidence of each device over the question's nonces, GPUs first, checked; ``ready``: they must be in use
        already.
        """
        found = self.read(asked)
        self.check(found, asked)
        if ready and not found.ready:
            raise GpuRefused("gpu-ready", "the driver says that the GPUs are not ready", "ready GPUs")
        return (*found.evidence, *(found.fabric.evidence if found.fabric is not None else ()))

    def check(self, found: Reading, asked: Question) -> tuple[Checked, ...]:
        """The devices of ``found``, if all of them are as declared; ``GpuRefused`` otherwise."""
        if missing := self.missing(found):
            raise GpuRefused("gpu-fabric", missing)
        switches = () if found.fabric is None else found.fabric.evidence
        if len(switches) != self._gpu.switches:
            raise GpuRefused("gpu-answer", f"evidence of {len(switches)} switches", str(self._gpu.switches))
        if len(found.evidence) != self._gpu.count:
            raise GpuRefused("gpu-answer", f"evidence of {len(found.evidence)} GPUs", str(self._gpu.count))
        passed: list[Checked] = []
        for name, device, nonce in _each(found, asked):
            checked = self._check_device(name, device, nonce)
            for other in passed:
                if other.pdi == checked.pdi:
                    raise GpuRefused(
                        "gpu-duplicate", f"{name} is {other.name}, {checked.pdi.hex()}", "distinct devices"
                    )
            passed.append(checked)
        if self._gpu.switches:
            members = [topology.Member(each.name, each.pdi, each.said) for each in passed]
            for got, wanted in topology.faults(members, self._gpu.switches):
                raise GpuRefused("gpu-topology", got, wanted)
        return tuple(passed)

    def missing(self, found: Reading) -> str:
        """What the NVLink fabric lacks before the GPUs can be used; empty if nothing. ``GpuRefused`` for a state in
        which they never can.
        """
        self._check_state(found)
        gpu, fabric = self._gpu, found.fabric
        if fabric is None and not gpu.switches:
            return ""
        if fabric is None or not gpu.switches:
            raise GpuRefused("gpu-answer", f"{'no' if fabric is None else 'a'} fabric", f"{gpu.switches} switches")
        if len(fabric.modes) != gpu.switches:
            raise GpuRefused("gpu-count", f"the driver has {len(fabric.modes)} switches", str(gpu.switches))
        joined, locked = sum(fabric.joined), fabric.modes.count(LOCKED)
        if joined != gpu.count:
            return f"{joined} of {gpu.count} GPUs have joined the NVLink fabric"
        if locked != gpu.switches:
            return f"{locked} of {gpu.switches} switches are locked"
        return ""

    def _check_state(self, found: Reading) -> None:
        count = self._gpu.count
        if len(found.persistent) != count:
            raise GpuRefused("gpu-count", f"the driver has {len(found.persistent)}", str(count))
        state = found.state
        environment = SIMULATION if self.simulated else PRODUCTION
        # The feature says nothing in protected PCIe mode, and the mode nothing without.
        mode, wanted, word = (
            (state.multi_gpu, PROTECTED_PCIE, "multi-GPU mode")
            if self._gpu.switches
            else (state.feature, _ON, "feature")
        )
        if (state.environment, mode) != (environment, wanted):
            text = f"environment {state.environment}, {word} {mode}"
            raise GpuRefused("gpu-cc-off", text, f"environment {environment}, {word} {wanted}")
        if state.devtools != _OFF:
            raise GpuRefused("gpu-devtools", f"developer tools {state.devtools}", str(_OFF))
        if not all(found.persistent):
            text = f"persistence is off for GPU {found.persistent.index(False) + 1}"
            raise GpuRefused("gpu-persistence", text, "persistence for each GPU")

    def _check_device(self, name: str, device: DeviceEvidence, nonce: bytes) -> Checked:
        # Only guests with GPUs pay for these imports.
        from privml.evidence.certificates import UnfitError
        from privml.evidence.nvidia import chain, roles

        try:
            claims = report.read(device.kind, device.report)
        except EvidenceError as error:
            raise GpuRefused("gpu-report", f"{name}: {error.message}") from error
        if claims.report.nonce != nonce:
            raise GpuRefused("gpu-nonce", f"{name} signed {claims.report.nonce.hex()}", nonce.hex())
        anchor = self._simulation or Anchor(chain.NVIDIA_ROOT_DER, roles.NVIDIA)
        try:
            # The host sets this guest's clock, so no date is looked at.
            read = chain.read(
                device.kind,
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
        if isinstance(said, SwitchOpaque):
            if said.pdi != read.pdi:
                raise GpuRefused(
                    "gpu-chain", f"{name}: PDI {said.pdi.hex()}", f"{read.pdi.hex()}, as in its certificate"
                )
            return Checked(name, read.pdi, read.family.name, said, claims.firmware)
        if said.fwid != read.fwid:
            got = "none" if said.fwid is None else said.fwid.hex()
            raise GpuRefused("gpu-fwid", f"{name}: {got}", f"{read.fwid.hex()}, as in its certificate")
        self._check_declared(name, read.family.name, said)
        return Checked(name, read.pdi, read.family.name, said, claims.firmware)

    def _check_declared(self, name: str, architecture: str, said: GpuOpaque) -> None:
        gpu = self._gpu
        if architecture != gpu.architecture:
            raise GpuRefused("gpu-architecture", f"{name}: {architecture}", gpu.architecture)
        if said.driver != gpu.driver:
            raise GpuRefused("gpu-driver", f"{name} has driver {said.driver}", gpu.driver)
        pairs = [f"{each.driver}/{each.vbios}" for each in gpu.allowed]
        if pairs and f"{said.driver}/{said.vbios}" not in pairs:
            raise GpuRefused("gpu-not-allowed", f"{name} has {said.driver}/{said.vbios}", " or ".join(pairs))


def _each(found: Reading, asked: Question) -> Iterator[tuple[str, DeviceEvidence, bytes]]:
    """Each device with its name and nonce: the GPUs, then the switches."""
    for number, (device, nonce) in enumerate(zip(found.evidence, asked.gpus, strict=True), start=1):
        yield f"GPU {number}", device, nonce
    switches: Sequence[DeviceEvidence] = () if found.fabric is None else found.fabric.evidence
    for number, (device, nonce) in enumerate(zip(switches, asked.switches or (), strict=True), start=1):
        yield f"switch {number}", device, nonce
