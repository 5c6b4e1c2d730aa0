"""Device nodes of NVIDIA's driver. Nothing else makes them: the guest has no rules of udev and no set-id programs.

Each node belongs to one group. The engine is only in that of the GPUs; the switches are for Fabric Manager and the
reader of evidence, and what configures them is for Fabric Manager alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from privml.agent.gpucheck import GpuRefused
from privml.agent.layout import FABRIC_ID, GPU_ID, SWITCH_ID, Layout
from privml.events.gpus import Gpu

MAJOR = 195
CONTROL = 255
"""Device numbers that are fixed in the driver; other majors are not."""
_MINOR = re.compile(r"^Device Minor:[ \t]+([0-9]{1,3})$", re.MULTILINE)
_CAPABILITY = re.compile(r"^DeviceFileMinor:[ \t]+([0-9]{1,7})$", re.MULTILINE)
_MODE = 0o660


@dataclass(frozen=True)
class Node:
    """A character device, and the group that may open it besides root."""

    path: Path
    major: int
    minor: int
    group: int = GPU_ID


Mknod = Callable[[Node], None]


def make_node(node: Node) -> None:
    """Make a character device node; it must not be another device."""
    path, device = node.path, os.makedev(node.major, node.minor)
    if not path.exists():
        path.parent.mkdir(mode=0o755, exist_ok=True)
        os.mknod(path, stat.S_IFCHR | _MODE, device)
    found = path.lstat()
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != device:
        raise GpuRefused("gpu-driver", f"{path} is another device", f"{node.major}:{node.minor}")
    os.chown(path, 0, node.group, follow_symlinks=False)
    path.chmod(_MODE)  # the umask does not count


def nodes(gpu: Gpu, layout: Layout) -> Iterator[Node]:
    """The nodes of all GPUs and switches; ``GpuRefused`` if the drivers have another number of them."""
    dev = layout.dev
    minors = sorted(_minors(gpu, layout.proc))
    uvm = _major(layout.proc, "nvidia-uvm")
    yield from (Node(dev / f"nvidia{minor}", MAJOR, minor) for minor in minors)
    yield Node(dev / "nvidiactl", MAJOR, CONTROL)
    yield Node(dev / "nvidia-uvm", uvm, 0)
    yield Node(dev / "nvidia-uvm-tools", uvm, 1)
    if gpu.switches:
        yield from _of_switches(gpu, layout)


def _minors(gpu: Gpu, proc: Path) -> set[int]:
    minors = set()
    for information in sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information")):
        found = _MINOR.search(information.read_text("ascii", "replace"))
        if found is None:
            raise GpuRefused("gpu-driver", f"the driver names no device minor of {information.parent.name[:32]}")
        minors.add(int(found[1]))
    if len(minors) != gpu.count:
        raise GpuRefused("gpu-count", f"the driver has {len(minors)}", str(gpu.count))
    return minors


def _of_switches(gpu: Gpu, layout: Layout) -> Iterator[Node]:
    """The nodes of the switches, of NVLink, and of the right to configure both."""
    dev, proc = layout.dev, layout.proc
    # The driver counts them from zero, in the order in which it found them.
    count = len(list((proc / "driver" / "nvidia-nvswitch" / "devices").glob("*")))
    if count != gpu.switches:
        raise GpuRefused("gpu-count", f"the driver has {count} switches", str(gpu.switches))
    switches = _major(proc, "nvidia-nvswitch")
    yield from (Node(dev / f"nvidia-nvswitch{minor}", switches, minor, SWITCH_ID) for minor in range(count))
    yield Node(dev / "nvidia-nvswitchctl", switches, CONTROL, SWITCH_ID)
    yield Node(dev / "nvidia-nvlink", _major(proc, "nvidia-nvlink"), 0, FABRIC_ID)
    place = proc / "driver" / "nvidia-nvlink" / "capabilities" / "fabric-mgmt"
    try:
        found = _CAPABILITY.search(place.read_text("ascii", "replace"))
    except OSError as error:
        raise GpuRefused("gpu-driver", f"the driver has no capability fabric-mgmt: {error.strerror}") from error
    if found is None:
        raise GpuRefused("gpu-driver", "the driver names no device minor of the capability fabric-mgmt")
    minor = int(found[1])
    yield Node(dev / "nvidia-caps" / f"nvidia-cap{minor}", _major(proc, "nvidia-caps"), minor, FABRIC_ID)


def _major(proc: Path, wanted: str) -> int:
    text = (proc / "devices").read_text("ascii", "replace")
    for line in text.partition("Block devices:")[0].splitlines():
        number, _, name = line.strip().partition(" ")
        if name == wanted and number.isdecimal():
            return int(number)
    raise GpuRefused("gpu-driver", f"the kernel has no devices of {wanted}")
