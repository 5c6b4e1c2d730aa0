"""One running virtual machine of a built image."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.errors import HostError
from privml.base.steps import say
from privml.image.tools import Bind, ToolsTree
from privml.machine.platform import Platform, Shape
from privml.machine.qemu import Boot, arguments
from privml.vm import accelerator, swtpm
from privml.vm.process import Child

GENERIC_FIRMWARE = "/usr/share/ovmf/OVMF.fd"
_TYPED = "unix:/vm/serial.sock,server=on,wait=off,logfile=/vm/console.log"


@dataclass(frozen=True)
class Launch:
    """What to start. ``image`` holds uki.efi, firmware.fd and ``disks``; single files can be replaced.

    ``append`` is a host's addition to the command line, ``oem_strings`` what it puts into SMBIOS type 11; an
    initrd of the host's is ``initrd`` among the replaced. ``forward`` is the guest port to reach. ``share_memory``
    makes the guest's memory a file, so that the firmware's log can be read from outside. ``fw_cfg`` are files
    handed to the guest by the host (name -> bytes). ``boot_disk`` is a disk to boot from, in the first virtio-blk
    device's slot, instead of by ``-kernel``.

    For those who try to get in: ``extra`` arguments for QEMU, ``attached`` files that these may name as
    /attached/NAME, ``writable`` disks (give copies in ``replaced``), ``typed``: a console that can be typed at.
    """

    image: Path
    platform: Platform
    shape: Shape
    disks: tuple[str, ...] = ("root.raw", "model.raw")
    replaced: Mapping[str, Path] = field(default_factory=dict)
    generic_firmware: bool = False
    append: str | None = None
    oem_strings: tuple[str, ...] = ()
    forward: int | None = None
    share_memory: bool = False
    capture: bool = False
    fw_cfg: Mapping[str, bytes] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    attached: Mapping[str, Path] = field(default_factory=dict)
    writable: bool = False
    typed: bool = False
    boot_disk: Path | None = None


@dataclass
class Machine:
    """A started machine. ``port`` is the host's end of the forward; files of the run are in ``directory``."""

    launch: Launch
    directory: Path
    qemu: Child
    port: int
    accelerator: str

    @property
    def console(self) -> Path:
        """What the guest wrote on its serial console."""
        return self.directory / "console.log"

    @property
    def keyboard(self) -> Path:
        """The serial console's socket (with ``typed``)."""
        return self.directory / "serial.sock"

    @property
    def monitor(self) -> Path:
        """QEMU's monitor, for ``Qmp``."""
        return self.directory / "qmp.sock"

    @property
    def memory(self) -> Path:
        """The guest's memory (with ``share_memory``)."""
        return self.directory / "ram"

    @property
    def packets(self) -> Path:
        """The packets of the guest's network (pcap, with ``capture``)."""
        return self.directory / "net.pcap"

    def console_tail(self, lines: int = 15) -> str:
        """The last lines of the console."""
        text = self.console.read_bytes().decode("utf-8", "replace") if self.console.exists() else ""
        return "\n".join("  | " + line for line in text.splitlines()[-lines:])

    def check_running(self) -> None:
        """``HostError`` when the machine has ended."""
        if not self.qemu.running():
            raise HostError(
                f"the machine ended (QEMU status {self.qemu.status})\n"
                f"{self.qemu.tail()}\n{self.console_tail()}".rstrip()
            )


@contextlib.contextmanager
def started(tools: ToolsTree, launch: Launch) -> Iterator[Machine]:
    """Start a machine; it and everything of its run are gone when the block ends."""
    image = launch.image.resolve()
    directory = Path(tempfile.mkdtemp(prefix="privml-vm."))
    children: list[Child] = []
    try:
        binds = [Bind(directory, "/vm", writable=True), Bind(image, "/image")]
        paths = {name: f"/image/{name}" for name in ("uki.efi", "firmware.fd", *launch.disks)}
        for number, (name, source) in enumerate(sorted(launch.replaced.items())):
            paths[name] = f"/replaced/{number}"
            binds.append(Bind(source.resolve(), paths[name], writable=launch.writable))
        binds += [Bind(source.resolve(), f"/attached/{name}") for name, source in sorted(launch.attached.items())]
        disks = [paths[name] for name in launch.disks]
        if launch.boot_disk is not None:
            binds.append(Bind(launch.boot_disk.resolve(), "/boot.raw", writable=launch.writable))
            disks.insert(0, "/boot.raw")
        if launch.generic_firmware:
            paths["firmware.fd"] = GENERIC_FIRMWARE
        port = _free_port()
        fw_cfg = []
        for number, (name, body) in enumerate(sorted(launch.fw_cfg.items())):
            (directory / f"fw_cfg.{number}").write_bytes(body)
            fw_cfg.append((name, f"/vm/fw_cfg.{number}"))
        tpm_socket = None
        if launch.platform.tpm:
            children.append(swtpm.start(tools, directory, keep=launch.share_memory))
            tpm_socket = f"/vm/{swtpm.SOCKET}"
        chosen = accelerator.choose(tools)
        boot = Boot(
            firmware=paths["firmware.fd"],
            kernel=paths["uki.efi"] if launch.boot_disk is None else None,
            append=launch.append,
            initrd=paths.get("initrd"),
            oem_strings=launch.oem_strings,
            disks=tuple(disks),
            forwards=((port, launch.forward),) if launch.forward is not None else (),
            serial=_TYPED if launch.typed else "file:/vm/console.log",
            tpm_socket=tpm_socket,
            qmp_socket="/vm/qmp.sock",
            fw_cfg=tuple(fw_cfg),
            capture="/vm/net.pcap" if launch.capture else None,
            writable=launch.writable,
            extra=launch.extra,
        )
        extra = ["-run-with", "exit-with-parent=on"]
        if launch.share_memory:
            size = launch.shape.memory
            extra += ["-object", f"memory-backend-file,id=ram,size={size},mem-path=/vm/ram,share=on"]
            extra += ["-machine", "memory-backend=ram"]
        argv = arguments(launch.platform, launch.shape, boot, chosen, *extra)
        qemu = Child(
            tools,
            ["qemu-system-x86_64", *argv],
            directory / "qemu.log",
            binds=binds,
            network=True,
            devices=chosen == "kvm",
        )
        children.append(qemu)
        qemu.await_path(directory / "qmp.sock")
        machine = Machine(launch, directory, qemu, port, chosen)
        say(f"started {image.name}: {launch.shape}, {chosen}, port {port}")
        yield machine
    finally:
        for child in reversed(children):
            child.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(machine: Machine, timeout: float) -> float:
    """Wait until the guest's server accepts a connection and speaks; the seconds it took."""
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        machine.check_running()
        # QEMU accepts on the host's side at once; only a TLS hello that is answered shows a server.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", machine.port), 2) as connection:
            connection.settimeout(3)
            connection.sendall(_CLIENT_HELLO)
            if connection.recv(1):
                return time.monotonic() - start
        time.sleep(0.3)
    raise HostError(f"the guest's server did not answer within {timeout:g} s\n{machine.console_tail()}")


# A TLS record that is no valid hello: any TLS server answers it with an alert.
_CLIENT_HELLO = bytes.fromhex("1603010005") + b"\x01\x00\x00\x01\x00"
