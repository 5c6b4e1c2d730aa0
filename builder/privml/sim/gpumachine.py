"""The GPUs of development images: simulated devices instead of those of the machine, behind the same checks.

Their reader answers with the evidence of `sim.gpu`. It names their environment a simulation, and their certificates
end in a root of `sim.gpupki`, so no check for genuine GPUs passes them, in the guest or at a caller.
"""

from __future__ import annotations

import sys
from functools import partial

from privml.agent import gpureader
from privml.agent.gpuanswer import Fabric, Question, Reading
from privml.agent.gpucheck import Anchor, GpuReader
from privml.agent.gpumachine import GpuMachine, Stayer
from privml.agent.layout import Layout
from privml.agent.nscq import LOCKED
from privml.agent.nvml import PROTECTED_PCIE, SIMULATION, State
from privml.base.errors import HostError
from privml.events import configuration
from privml.events.gpus import Gpu, gpu_device, switch_device
from privml.evidence.nvidia.families import HOPPER, LS10
from privml.evidence.nvidia.roles import SIMULATION as NAMING
from privml.sim.gpu import GPU_VBIOS, SimulatedDevice, device_evidence, gpu_opaque, switch_opaque
from privml.sim.gpupki import roots

MAX_PCI = 32


class _Nothing:
    """A unit that does not exist."""

    def start(self) -> None:
        """Do nothing."""

    def alive(self) -> bool:
        """It never ends."""
        return True


class SimulatedMachine(GpuMachine):
    """A machine with the declared number of simulated GPUs. There is no driver to bring up."""

    def __init__(self, gpu: Gpu, layout: Layout, *, nothing: Stayer = _Nothing()) -> None:  # noqa: B008 - stateless
        reader = reader_of(gpu, layout)
        super().__init__(gpu, layout, persistence=nothing, ready=nothing, fabric=nothing, reader=reader)
        self._simulated = [gpu_device(gpu.vendor)] * gpu.count + [switch_device(gpu.vendor)] * gpu.switches

    def present(self) -> list[str]:
        """The machine's devices, and the simulated GPUs and switches."""
        return sorted([*super().present(), *self._simulated])

    def bring_up(self) -> None:
        """Do nothing."""

    def check(self) -> str:
        """Check each simulated GPU as a genuine one."""
        return f"SIMULATED: {super().check()}"


def reader_of(gpu: Gpu, layout: Layout) -> GpuReader:
    """The reader of simulated GPUs; it accepts no genuine one."""
    return GpuReader(layout.gpu_socket, gpu, simulation=Anchor(roots()[0], NAMING))


def read(asked: Question, gpu: Gpu) -> Reading:
    """The state and evidence of simulated GPUs with a firmware that ``gpu`` allows, and of their switches."""
    if gpu.architecture != HOPPER.name:
        raise HostError(f"simulation: no GPU of `{gpu.architecture}`, expected {HOPPER.name}")
    vbios = gpu.allowed[0].vbios if gpu.allowed else GPU_VBIOS
    boards = [SimulatedDevice(HOPPER, index) for index in range(gpu.count)]
    links = [SimulatedDevice(LS10, index) for index in range(gpu.switches)]
    evidence = [
        device_evidence(board, nonce, gpu_opaque(board, links, driver=gpu.driver, vbios=vbios))
        for board, nonce in zip(boards, asked.gpus, strict=False)
    ]
    fabric = None
    if asked.switches is not None:
        of_links = [
            device_evidence(link, nonce, switch_opaque(link, boards))
            for link, nonce in zip(links, asked.switches, strict=False)
        ]
        fabric = Fabric((True,) * gpu.count, (LOCKED,) * gpu.switches, tuple(of_links))
    complete = len(asked.gpus) == gpu.count
    state = State(SIMULATION, 1, 0, PROTECTED_PCIE if links else 0)
    return Reading(state, True, (True,) * gpu.count, tuple(evidence) if complete else (), fabric)


def main(layout: Layout | None = None) -> int:
    """Answer the question on standard input about the GPUs that the configuration declares."""
    gpu = configuration.read((layout or Layout()).config).gpu
    if gpu is None:
        sys.stderr.write("privml: gpu reader: the measured configuration names no GPU\n")
        return 1
    return gpureader.main(partial(read, gpu=gpu))


if __name__ == "__main__":
    sys.exit(main())
