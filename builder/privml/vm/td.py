"""Start an image as a TD on this machine: the argument list whose registers are predicted, and nothing else."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from privml.base.errors import HostError, UsageError
from privml.base.steps import say
from privml.image.tools import Bind, ToolsTree
from privml.machine.platform import MEMORY, Platform
from privml.machine.qemu import HostSide, arguments
from privml.vm import foreign
from privml.vm.machine import Launch, Machine, free_port
from privml.vm.process import Child
from privml.vm.qtest import Qemu

FIRST_WITH_TDX = (10, 1)
"""The first QEMU that starts a TD with the arguments of `machine.qemu`."""
QUOTE_SERVICE = "vsock:2:4050"
"""Where Intel's quote generation service listens when its configuration names port 4050."""
_VSOCK = re.compile(r"vsock:([0-9]{1,10}):([0-9]{1,10})")
_ADDRESS = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")


@dataclass(frozen=True)
class HostParts:
    """What a host gives a TD: where quotes come from, and cards by PCI address."""

    quote_socket: tuple[int, int] | str
    cards: tuple[str, ...]


@dataclass(frozen=True)
class TdHost(HostParts):
    """What this machine gives a TD, and the QEMU that starts it."""

    qemu: Qemu


def quote_socket(text: str) -> tuple[int, int] | str:
    """``vsock:CID:PORT``, or the path of a Unix socket; ``UsageError`` for anything else."""
    match = _VSOCK.fullmatch(text)
    if match is not None:
        return int(match[1]), int(match[2])
    if not text.startswith("/"):
        raise UsageError(f"--quote-socket `{text}`: expected vsock:CID:PORT or the path of a socket")
    return text


def cards(addresses: tuple[str, ...], platform: Platform) -> tuple[str, ...]:
    """PCI addresses with their domain; ``UsageError`` if they are not those of the platform's cards."""
    found = []
    for text in addresses:
        match = _ADDRESS.fullmatch(text.lower())
        if match is None:
            raise UsageError(f"--gpu `{text}`: expected a PCI address such as 0000:18:00.0")
        found.append(f"{match[1] or '0000'}:{match[2]}")
    if len(set(found)) != len(found):
        raise UsageError("--gpu: the same card is given twice")
    slots = sum(device.kind == MEMORY for device in platform.devices)
    if len(found) != slots:
        raise UsageError(
            f"got {len(found)} GPUs, but platform {platform.name} has {slots}: its registers would be others",
            hint="name a platform with as many with --platform; `privml-build platform learn` makes one",
        )
    return tuple(found)


def qemu_for(tools: ToolsTree, platform: Platform, path: Path | None) -> Qemu:
    """The QEMU whose tables are predicted: the tools', or the binary that a platform was learnt from."""
    learnt = platform.tables is not None
    if not learnt and path is None:
        return Qemu(tools)
    if path is None:
        raise UsageError(
            f"platform {platform.name} was learnt from a QEMU {platform.qemu} of a host", hint="name it with --qemu"
        )
    found = foreign.find(tools, path)
    if not learnt:
        raise UsageError(f"platform {platform.name} is predicted with the QEMU of the tools", hint="leave out --qemu")
    if found.binary != platform.binary:
        raise HostError(
            f"{path} is QEMU {found.version} with the SHA-256 {found.binary}, but {platform.name} was learnt from "
            f"QEMU {platform.qemu} with {platform.binary}",
            hint="learn the platform again: its tables may have changed",
        )
    if tuple(map(int, found.version.split(".")[:2])) < FIRST_WITH_TDX:
        expected = ".".join(map(str, FIRST_WITH_TDX))
        raise HostError(f"{path} is QEMU {found.version}, expected {expected} or newer to start a TD")
    return found.qemu


def td_arguments(launch: Launch, host: HostParts, directory: Path, port: int) -> list[str]:
    """QEMU's arguments for ``launch`` as a TD, whose own files are in ``directory``; paths are the host's."""
    boot_disk = () if launch.boot_disk is None else (str(launch.boot_disk),)
    side = HostSide(
        firmware=f"{launch.image}/{launch.firmware}",
        kernel=None if launch.boot_disk else f"{launch.image}/uki.efi",
        disks=(*boot_disk, *(f"{launch.image}/{name}" for name in launch.disks)),
        forwards=((port, launch.forward),) if launch.forward is not None else (),
        network=launch.network,
        serial=f"file:{directory}/console.log",
        qmp_socket=f"{directory}/qmp.sock",
        quote_socket=host.quote_socket,
        cards=host.cards,
    )
    return arguments(launch.platform, launch.size, side, "tdx")


def shown(launch: Launch, host: TdHost) -> str:
    """The command as a shell takes it, with the directory and the port of a run that is not there yet."""
    directory = Path(tempfile.gettempdir()) / "privml-td"
    program = Path(host.qemu.program).name
    here = _resolved(launch)
    return shlex.join([program, *td_arguments(here, host, directory, launch.forward or 0)])


def _resolved(launch: Launch) -> Launch:
    disk = launch.boot_disk
    return replace(launch, image=launch.image.resolve(), boot_disk=None if disk is None else disk.resolve())


@contextlib.contextmanager
def started_td(launch: Launch, host: TdHost) -> Iterator[Machine]:
    """Start a TD; it is stopped and its files are removed at the end of the block."""
    image = launch.image.resolve()
    directory = Path(tempfile.mkdtemp(prefix="privml-td."))
    binds = [Bind(directory, str(directory), writable=True), Bind(image, str(image)), *host.qemu.binds]
    if isinstance(host.quote_socket, str):
        folder = Path(host.quote_socket).parent
        binds.append(Bind(folder, str(folder), writable=True))
    child: Child | None = None
    try:
        port = free_port()
        argv = td_arguments(_resolved(launch), host, directory, port)
        child = Child(
            host.qemu.tools,
            [host.qemu.program, *argv, *host.qemu.exits],
            directory / "qemu.log",
            binds=binds,
            network=True,
            devices=True,
        )
        child.await_path(directory / "qmp.sock")
        say(f"started {image.name}: {launch.size}, as a TD, port {port}")
        yield Machine(directory, child, port)
    finally:
        if child is not None:
            child.stop()
        shutil.rmtree(directory, ignore_errors=True)
