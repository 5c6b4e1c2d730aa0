"""Bring up the GPUs of the machine: driver, device nodes, persistence; and set them ready once they were checked.

GPUs in protected PCIe mode are linked by switches. Fabric Manager configures these and the links, before anything is
checked and before CUDA can start.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from privml.agent import devices
from privml.agent.gpucheck import Checked, GpuReader, GpuRefused
from privml.agent.gpunodes import Mknod, make_node, nodes
from privml.agent.layout import Layout
from privml.agent.nvml import NONCE_SIZE
from privml.base.errors import HostError
from privml.events.gpus import Gpu, gpu_device, switch_device

READY = "privml-gpu-ready.service"
PERSISTENCE = "privml-gpu-persistence.service"
FABRIC = "privml-gpu-fabric.service"
FABRIC_WAIT = 300.0
"""Seconds until all GPUs must have joined the NVLink fabric; a public log shows 45 s for half a board."""
_FABRIC_INTERVAL = 1.0


class Starter(Protocol):
    """A systemd unit that is started and then done, or stays."""

    def start(self) -> None:
        """Start it; ``HostError`` if it fails."""


class Stayer(Starter, Protocol):
    """A systemd unit that stays."""

    def alive(self) -> bool:
        """False once its processes have exited."""


class GpuMachine:
    """NVIDIA's GPUs of this machine, as the measured configuration declares them."""

    def __init__(
        self,
        gpu: Gpu,
        layout: Layout,
        *,
        persistence: Starter,
        ready: Starter,
        fabric: Stayer,
        reader: GpuReader | None = None,
        mknod: Mknod = make_node,
        fabric_wait: float = FABRIC_WAIT,
    ) -> None:
        if gpu.vendor != "nvidia":
            raise HostError(f"gpu: this agent cannot check GPUs of `{gpu.vendor}`, expected nvidia")
        self._gpu = gpu
        self._layout = layout
        self._persistence = persistence
        self._ready = ready
        self._fabric = fabric
        self._fabric_wait = fabric_wait
        self._mknod = mknod
        self._reader = reader or GpuReader(layout.gpu_socket, gpu)

    def present(self) -> list[str]:
        """The machine's devices, by name."""
        return devices.present(self._layout.sys / "bus" / "pci" / "devices")

    @property
    def counted(self) -> frozenset[str]:
        """The names of the devices that `check_count` counts."""
        vendor = self._gpu.vendor
        return frozenset({gpu_device(vendor), switch_device(vendor)} if self._gpu.switches else {gpu_device(vendor)})

    def check_count(self) -> None:
        """Refuse the machine unless it has exactly the declared number of GPUs, and of switches."""
        gpu, present = self._gpu, self.present()
        found = present.count(gpu_device(gpu.vendor)), present.count(switch_device(gpu.vendor))
        if gpu.switches and found != (gpu.count, gpu.switches):
            wanted = f"{gpu.count} GPUs and {gpu.switches} switches"
            raise HostError(f"gpu: recipe declares {wanted}, found {found[0]} GPUs and {found[1]} switches")
        if found[0] != gpu.count:
            raise HostError(f"gpu: recipe declares {gpu.count} GPU{'s' if gpu.count > 1 else ''}, found {found[0]}")

    def bring_up(self) -> None:
        """Check the driver, make the device nodes, turn persistence on, link the GPUs."""
        self._check_driver()
        for node in nodes(self._gpu, self._layout):
            self._mknod(node)
        try:
            self._persistence.start()
        except HostError as error:
            raise GpuRefused("gpu-persistence", error.message) from error
        if self._gpu.switches:
            self._link()

    def ended(self) -> str:
        """Why the GPUs must not be used any more; empty if they may."""
        return "Fabric Manager exited" if self._gpu.switches and not self._fabric.alive() else ""

    def check(self) -> str:
        """Check each device over a nonce of its own; returns what they are. Nothing has used them yet."""
        asked = self._reader.question(lambda: secrets.token_bytes(NONCE_SIZE))
        passed = self._reader.check(self._reader.read(asked), asked)
        gpus, switches = passed[: self._gpu.count], passed[self._gpu.count :]
        return ", ".join(_summary(found) for found in (gpus, switches) if found)

    def set_ready(self) -> None:
        """Let the GPUs accept work, and check that they do."""
        try:
            self._ready.start()
        except HostError as error:
            raise GpuRefused("gpu-ready", error.message) from error
        if not self._reader.read().ready:
            raise GpuRefused("gpu-ready", "the driver says that the GPUs are not ready", "ready GPUs")

    def _link(self) -> None:
        """Start Fabric Manager, and wait until all GPUs have joined the fabric and its switches are locked."""
        try:
            self._fabric.start()
        except HostError as error:
            raise GpuRefused("gpu-fabric", error.message) from error
        end = time.monotonic() + self._fabric_wait
        while True:
            if not (missing := self._reader.missing(self._reader.read())):
                return
            if not self._fabric.alive():
                raise GpuRefused("gpu-fabric", f"Fabric Manager exited, {missing}")
            if time.monotonic() >= end:
                raise GpuRefused("gpu-fabric", f"{missing} after {self._fabric_wait:g} s")
            time.sleep(_FABRIC_INTERVAL)

    def _check_driver(self) -> None:
        modules = self._layout.sys / "module"
        try:
            version = (modules / "nvidia" / "version").read_text().strip()
        except OSError as error:
            raise GpuRefused(
                "gpu-driver", "the kernel has no module nvidia", f"version {self._gpu.driver}"
            ) from error
        if version != self._gpu.driver:
            raise GpuRefused("gpu-driver", f"the module nvidia has version {version[:32]}", self._gpu.driver)
        if not (modules / "nvidia_uvm").is_dir():
            raise GpuRefused("gpu-driver", "the kernel has no module nvidia_uvm")


def _summary(found: tuple[Checked, ...]) -> str:
    firmware = ", ".join(dict.fromkeys(each.firmware for each in found))
    return f"{len(found)} x {found[0].family}, {firmware}"
