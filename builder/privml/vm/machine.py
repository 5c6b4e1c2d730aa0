"""Start a virtual machine from a built image."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from privml.base.errors import HostError
from privml.base.steps import say
from privml.events.network import Card
from privml.image.tools import GENERIC_FIRMWARE, Bind, ToolsTree
from privml.machine.platform import Platform, Size
from privml.machine.qemu import ACCELERATORS, HostSide, arguments
from privml.vm import accelerator, simulation, swtpm
from privml.vm.process import Child
from privml.vm.qtest import Qemu

Change = Callable[[list[str]], list[str]]
"""Changes QEMU's argument list."""
_CONSOLE = "console.log"


@dataclass(frozen=True)
class Launch:
    """What to start. ``image`` holds uki.efi, ``firmware`` and ``disks``.

    ``forward`` is the guest port to forward, ``network`` what the guest does with its cards. ``share_memory`` makes
    the guest's memory a file, so that the firmware's log can be read from outside. ``fw_cfg`` holds files for the
    guest (name -> bytes). ``boot_disk`` is a disk to boot from, in the slot of the first virtio-blk device, instead
    of ``-kernel``. ``simulates_snp``: the guest simulates an SNP guest, whose launch digest covers the argument list
    that QEMU is started with.

    A malicious host can start QEMU with any arguments: ``change`` turns the honest list into another one. The list
    has the image at /image, the boot disk at /boot.raw and the run's files at /vm. ``attached`` holds further
    writable files, at /attached/NAME. ``qemu`` is the machine's QEMU if it is not that of the tools; it emulates.
    """

    image: Path
    platform: Platform
    size: Size
    disks: tuple[str, ...]
    firmware: str
    generic_firmware: bool = False
    forward: int | None = None
    share_memory: bool = False
    fw_cfg: Mapping[str, bytes] = field(default_factory=dict)
    boot_disk: Path | None = None
    change: Change | None = None
    attached: Mapping[str, Path] = field(default_factory=dict)
    network: tuple[Card, ...] = ()
    qemu: Qemu | None = None
    simulates_snp: bool = False


@dataclass
class Machine:
    """A started machine. ``port`` is the forwarded port on the host; files of the run are in ``directory``."""

    directory: Path
    qemu: Child
    port: int

    @property
    def console(self) -> Path:
        """The guest's serial console output, empty at first."""
        return self.directory / _CONSOLE

    @property
    def memory(self) -> Path:
        """The guest's memory (with ``share_memory``)."""
        return self.directory / "ram"

    def console_tail(self, lines: int = 15) -> str:
        """The last lines of the console."""
        text = self.console.read_bytes().decode("utf-8", "replace")
        return "\n".join("  | " + line for line in text.splitlines()[-lines:])

    def check_running(self) -> None:
        """Raise ``HostError`` if the machine has exited."""
        if not self.qemu.running():
            raise HostError(
                f"the machine exited (QEMU status {self.qemu.status})\n"
                f"{self.qemu.tail()}\n{self.console_tail()}".rstrip()
            )


@contextlib.contextmanager
def started(tools: ToolsTree, launch: Launch) -> Iterator[Machine]:
    """Start a machine; it is stopped and its files are removed at the end of the block."""
    image = launch.image.resolve()
    directory = Path(tempfile.mkdtemp(prefix="privml-vm."))
    children: list[Child] = []
    try:
        (directory / _CONSOLE).touch()  # QEMU makes it after it answers, and somebody may read it before
        binds = [Bind(directory, "/vm", writable=True), Bind(image, "/image")]
        binds += [
            Bind(source.resolve(), f"/attached/{name}", writable=True)
            for name, source in sorted(launch.attached.items())
        ]
        disks = [f"/image/{name}" for name in launch.disks]
        if launch.boot_disk is not None:
            binds.append(Bind(launch.boot_disk.resolve(), "/boot.raw"))
            disks.insert(0, "/boot.raw")
        port = free_port()
        fw_cfg = []
        for number, (name, body) in enumerate(sorted(launch.fw_cfg.items())):
            (directory / f"fw_cfg.{number}").write_bytes(body)
            fw_cfg.append((name, f"/vm/fw_cfg.{number}"))
        tpm_socket = None
        if launch.platform.tpm:
            children.append(swtpm.start(tools, directory, keep=launch.share_memory))
            tpm_socket = f"/vm/{swtpm.SOCKET}"
        vmm = launch.qemu or Qemu(tools)
        chosen = accelerator.choose(tools) if launch.qemu is None else "tcg"
        generic = GENERIC_FIRMWARE
        if launch.qemu is not None:
            generic = "/generic.fd"  # its own tree need not have one
            binds.append(Bind(tools.root / GENERIC_FIRMWARE.lstrip("/"), generic))
        host = HostSide(
            firmware=generic if launch.generic_firmware else f"/image/{launch.firmware}",
            kernel="/image/uki.efi" if launch.boot_disk is None else None,
            disks=tuple(disks),
            forwards=((port, launch.forward),) if launch.forward is not None else (),
            network=launch.network,
            serial=f"file:/vm/{_CONSOLE}",
            tpm_socket=tpm_socket,
            qmp_socket="/vm/qmp.sock",
            fw_cfg=tuple(fw_cfg),
        )
        memory: tuple[str, ...] = ()
        if launch.share_memory:
            backend = f"memory-backend-file,id=ram,size={launch.size.memory},mem-path=/vm/ram,share=on"
            memory = ("-object", backend, "-machine", "memory-backend=ram")
        argv = arguments(launch.platform, launch.size, host, chosen, *memory)
        if launch.change is not None:
            argv = launch.change(argv)
        if launch.simulates_snp:
            argv += _simulation(argv, launch.platform, directory, binds)
        qemu = Child(
            vmm.tools,
            [vmm.program, *argv, *vmm.exits],
            directory / "qemu.log",
            binds=[*binds, *vmm.binds],
            network=True,
            devices=ACCELERATORS[chosen].kvm,
        )
        children.append(qemu)
        qemu.await_path(directory / "qmp.sock")
        machine = Machine(directory, qemu, port)
        say(f"started {image.name}: {launch.size}, {chosen}, port {port}")
        yield machine
    finally:
        for child in reversed(children):
            child.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _simulation(argv: list[str], platform: Platform, directory: Path, binds: list[Bind]) -> list[str]:
    """Further arguments with which a guest simulates an SNP guest that is started with ``argv``."""

    def read(name: str) -> bytes:
        for bind in binds:
            inside = PurePosixPath(name)
            if inside.is_relative_to(bind.target):
                return (bind.source / inside.relative_to(bind.target)).read_bytes()
        raise HostError(f"simulation: QEMU is given {name}, which is no file of this machine")

    if platform.cpu_signature is None:
        raise HostError(f"simulation: platform {platform.name} names no processors of SNP guests")
    found = simulation.snp(argv, read, signature=platform.cpu_signature, features=platform.sev_features)
    return found.written(directory, "/vm")


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
