"""Bring up the GPUs of the machine: driver, device nodes, persistence; and set them ready once they were checked."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from privml.agent import devices
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.layout import GPU_ID, Layout
from privml.agent.nvml import NONCE_SIZE
from privml.base.errors import HostError
from privml.events.configuration import Gpu, gpu_device

READY = "privml-gpu-ready.service"
PERSISTENCE = "privml-gpu-persistence.service"
MAJOR = 195
CONTROL = 255
"""Device numbers that are fixed in the driver; that of `nvidia-uvm` is not."""
_MINOR = re.compile(r"^Device Minor:[ \t]+([0-9]{1,3})$", re.MULTILINE)
_MODE = 0o660

Mknod = Callable[[Path, int, int], None]
"""Make a character device node: path, major, minor."""


class Starter(Protocol):
    """A systemd unit that is started and then done, or stays."""

    def start(self) -> None:
        """Start it; ``HostError`` if it fails."""


def make_node(path: Path, major: int, minor: int) -> None:
    """Make a character device node for the users of the GPUs; it must not be another device."""
    device = os.makedev(major, minor)
    if not path.exists():
        os.mknod(path, stat.S_IFCHR | _MODE, device)
    found = path.lstat()
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != device:
        raise GpuRefused("gpu-driver", f"{path} is another device", f"{major}:{minor}")
    os.chown(path, 0, GPU_ID, follow_symlinks=False)
    path.chmod(_MODE)  # the umask does not count


class GpuMachine:
    """NVIDIA's GPUs of this machine, as the measured configuration declares them."""

    def __init__(
        self,
        gpu: Gpu,
        layout: Layout,
        *,
        persistence: Starter,
        ready: Starter,
        reader: GpuReader | None = None,
        mknod: Mknod = make_node,
    ) -> None:
        if gpu.vendor != "nvidia":
            raise HostError(f"gpu: this agent cannot check GPUs of `{gpu.vendor}`, expected nvidia")
        self._gpu = gpu
        self._layout = layout
        self._persistence = persistence
        self._ready = ready
        self._mknod = mknod
        self._reader = reader or GpuReader(layout.gpu_socket, gpu)

    def present(self) -> list[str]:
        """The machine's devices, by name."""
        return devices.present(self._layout.sys / "bus" / "pci" / "devices")

    def check_count(self) -> None:
        """Refuse the machine unless it has exactly the declared number of GPUs."""
        count, found = self._gpu.count, self.present().count(gpu_device(self._gpu.vendor))
        if found != count:
            raise HostError(f"gpu: recipe declares {count} GPU{'s' if count > 1 else ''}, found {found}")

    def bring_up(self) -> None:
        """Check the driver, make the device nodes, turn persistence on."""
        self._check_driver()
        for path, major, minor in self._nodes():
            self._mknod(path, major, minor)
        try:
            self._persistence.start()
        except HostError as error:
            raise GpuRefused("gpu-persistence", error.message) from error

    def check(self) -> str:
        """Check each GPU over a nonce of its own; returns what they are. Nothing has used them yet."""
        nonces = [secrets.token_bytes(NONCE_SIZE) for _ in range(self._gpu.count)]
        passed = self._reader.check(self._reader.read(nonces), nonces)
        firmware = ", ".join(dict.fromkeys(each.firmware for each in passed))
        return f"{len(passed)} x {self._gpu.architecture}, {firmware}"

    def set_ready(self) -> None:
        """Let the GPUs accept work, and check that they do."""
        try:
            self._ready.start()
        except HostError as error:
            raise GpuRefused("gpu-ready", error.message) from error
        if not self._reader.read().ready:
            raise GpuRefused("gpu-ready", "the driver says that the GPUs are not ready", "ready GPUs")

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

    def _nodes(self) -> list[tuple[Path, int, int]]:
        """The device nodes: nobody else makes them, since no rule of udev and no set-id program is in the guest."""
        dev, proc = self._layout.dev, self._layout.proc
        minors = []
        for information in sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information")):
            found = _MINOR.search(information.read_text("ascii", "replace"))
            if found is None:
                raise GpuRefused("gpu-driver", f"the driver names no device minor of {information.parent.name[:32]}")
            minors.append(int(found[1]))
        if len(set(minors)) != self._gpu.count:
            raise GpuRefused("gpu-count", f"the driver has {len(set(minors))}", str(self._gpu.count))
        uvm = self._uvm_major()
        return [
            *((dev / f"nvidia{minor}", MAJOR, minor) for minor in sorted(minors)),
            (dev / "nvidiactl", MAJOR, CONTROL),
            (dev / "nvidia-uvm", uvm, 0),
            (dev / "nvidia-uvm-tools", uvm, 1),
        ]

    def _uvm_major(self) -> int:
        text = (self._layout.proc / "devices").read_text("ascii", "replace")
        for line in text.partition("Block devices:")[0].splitlines():
            number, _, name = line.strip().partition(" ")
            if name == "nvidia-uvm" and number.isdecimal():
                return int(number)
        raise GpuRefused("gpu-driver", "the kernel has no devices of nvidia-uvm")
