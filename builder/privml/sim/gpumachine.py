"""The GPUs of development images: simulated devices instead of those of the machine, behind the same checks.

Their reader answers with the evidence of `sim.gpu`. It names their environment a simulation, and their certificates
end in a root of `sim.gpupki`, so no check for genuine GPUs passes them, in the guest or at a caller.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from privml.agent import gpureader
from privml.agent.gpuanswer import Reading
from privml.agent.gpucheck import Anchor, GpuReader
from privml.agent.gpumachine import GpuMachine, Starter
from privml.agent.layout import Layout
from privml.agent.nvml import SIMULATION, State
from privml.base.errors import HostError
from privml.events import configuration
from privml.events.configuration import Gpu, gpu_device
from privml.evidence.nvidia.families import HOPPER
from privml.evidence.nvidia.roles import SIMULATION as NAMING
from privml.sim.gpu import GPU_VBIOS, SimulatedDevice, device_evidence, gpu_opaque
from privml.sim.gpupki import roots

MAX_PCI = 32


class _Nothing:
    """A unit that does not exist."""

    def start(self) -> None:
        """Do nothing."""


class SimulatedMachine(GpuMachine):
    """A machine with the declared number of simulated GPUs. There is no driver to bring up."""

    def __init__(self, gpu: Gpu, layout: Layout, *, nothing: Starter = _Nothing()) -> None:  # noqa: B008 - stateless
        super().__init__(gpu, layout, persistence=nothing, ready=nothing, reader=reader_of(gpu, layout))
        self._simulated = [gpu_device(gpu.vendor)] * gpu.count

    def present(self) -> list[str]:
        """The machine's devices, and the simulated GPUs."""
        return sorted([*super().present(), *self._simulated])

    def bring_up(self) -> None:
        """Do nothing."""

    def check(self) -> str:
        """Check each simulated GPU as a genuine one."""
        return f"SIMULATED: {super().check()}"


def reader_of(gpu: Gpu, layout: Layout) -> GpuReader:
    """The reader of simulated GPUs; it accepts no genuine one."""
    return GpuReader(layout.gpu_socket, gpu, simulation=Anchor(roots()[0], NAMING))


def read(nonces: Sequence[bytes], gpu: Gpu) -> Reading:
    """The state and evidence of simulated GPUs with a firmware that ``gpu`` allows."""
    if gpu.architecture != HOPPER.name:
        raise HostError(f"simulation: no GPU of `{gpu.architecture}`, expected {HOPPER.name}")
    vbios = gpu.allowed[0].vbios if gpu.allowed else GPU_VBIOS
    boards = [SimulatedDevice(HOPPER, index) for index in range(gpu.count)]
    evidence = [
        device_evidence(board, nonce, gpu_opaque(board, driver=gpu.driver, vbios=vbios))
        for board, nonce in zip(boards, nonces, strict=False)
    ]
    complete = len(nonces) == gpu.count
    return Reading(State(SIMULATION, 1, 0), True, (True,) * gpu.count, tuple(evidence) if complete else ())


def main(layout: Layout | None = None) -> int:
    """Answer the question on standard input about the GPUs that the configuration declares."""
    gpu = configuration.read((layout or Layout()).config).gpu
    if gpu is None:
        sys.stderr.write("privml: gpu reader: the measured configuration names no GPU\n")
        return 1
    return gpureader.main(partial(read, gpu=gpu))


if __name__ == "__main__":
    sys.exit(main())
