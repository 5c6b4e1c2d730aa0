"""Build the QEMU argument list from a platform, a size and the host's resources, for run, qtest and launch alike.

No SMBIOS options are set, and ``-uuid`` only for a learnt platform that has one, because SMBIOS type 1 would measure
host-chosen text into RTMR0. Option ROMs are off unless a device enables them, because outside a TD they are measured
into RTMR1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from privml.base import strictjson
from privml.base.errors import RecipeError
from privml.base.sizes import PLAIN_VCPUS
from privml.events.network import DHCP, Card
from privml.machine import usernetwork
from privml.machine.platform import KINDS, MEMORY, Device, Platform, Size, mac_addresses
from privml.machine.qemuopts import option


@dataclass(frozen=True)
class HostSide:
    """The host's resources for a machine: boot files, and files and sockets of its devices.

    Paths are as QEMU sees them. ``serial`` is QEMU's character device: the port itself is always there, since the
    ACPI tables name it. ``disks`` go to the platform's virtio-blk devices in slot order, read-only. ``forwards`` are
    (host port, guest port) pairs on 127.0.0.1. ``network`` says what the guest does with its cards, in slot order
    (empty: DHCP). ``quote_socket`` is the address of the host's quote generation service, a vsock (CID, port) or the
    path of a Unix socket, and ``cards`` are the PCI addresses for the platform's ``memory`` devices; only a TD uses
    them. ``guest_cid`` is for its vsock device.
    """

    firmware: str
    kernel: str | None = None
    disks: tuple[str, ...] = ()
    forwards: tuple[tuple[int, int], ...] = ()
    network: tuple[Card, ...] = ()
    serial: str = "null"
    tpm_socket: str | None = None
    qmp_socket: str | None = None
    fw_cfg: tuple[tuple[str, str], ...] = ()
    quote_socket: tuple[int, int] | str | None = None
    cards: tuple[str, ...] = ()
    guest_cid: int = 3


@dataclass(frozen=True)
class Accelerator:
    """A way to run a machine, and its effect on the argument list.

    ``kvm``: it needs /dev/kvm, and the machine takes the options that only KVM knows. ``runs`` is False where the
    guest never runs and only its tables are read. ``guest`` makes the confidential guest object. ``cpu_model`` takes
    the place of the platform's CPU model; the properties that identify the CPU stay as they are. ``host_devices``:
    devices that need the host are its own, and not stand-ins. ``words`` are further arguments.
    """

    accel: str
    kvm: bool = False
    runs: bool = True
    guest: Callable[[HostSide], dict[str, object]] | None = None
    cpu_model: str | None = None
    host_devices: bool = False
    words: tuple[str, ...] = ()

    @property
    def argument(self) -> tuple[str, ...]:
        """QEMU's arguments that choose it."""
        return ("-accel", self.accel, *self.words)


def _tdx_guest(host: HostSide) -> dict[str, object]:
    guest: dict[str, object] = {"qom-type": "tdx-guest", "sept-ve-disable": True}
    if isinstance(host.quote_socket, str):
        guest["quote-generation-socket"] = {"type": "unix", "path": host.quote_socket}
    elif host.quote_socket is not None:
        cid, port = host.quote_socket
        guest["quote-generation-socket"] = {"type": "vsock", "cid": str(cid), "port": str(port)}
    return guest


AcceleratorName: TypeAlias = Literal["tcg", "kvm", "qtest", "stopped", "tdx"]
ACCELERATORS: Mapping[AcceleratorName, Accelerator] = {
    "tcg": Accelerator("tcg,thread=multi"),
    "kvm": Accelerator("kvm", kvm=True),
    "qtest": Accelerator("qtest", runs=False),
    # For a QEMU without qtest's accelerator, such as Debian 13's. The machine is made, and never started.
    "stopped": Accelerator("tcg,thread=single", runs=False, words=("-S",)),
    # QEMU starts a TD with the host's CPU model only (target/i386/kvm/tdx.c, tdx_cpu_instance_init).
    "tdx": Accelerator("kvm", kvm=True, guest=_tdx_guest, cpu_model="host", host_devices=True),
}
KVM_OPTIONS = ("kernel_irqchip",)  # does not affect the tables
# Above 255 CPUs: how the guest addresses interrupts to them without an IOMMU, which a TD could not trust (ADR 0059).
# QEMU's default with a split irqchip.
_DESTINATIONS = ",kvm-msi-ext-dest-id=on"
_GUEST = "guest0"


def arguments(platform: Platform, size: Size, host: HostSide, accelerator: AcceleratorName, *extra: str) -> list[str]:
    """argv without the program name; ``extra`` comes last. ``RecipeError`` for a size that the platform has not."""
    platform.check(size)
    how = ACCELERATORS[accelerator]
    options = [f"{key}={value}" for key, value in platform.options if how.kvm or key not in KVM_OPTIONS]
    guest: list[str] = []
    if how.guest is not None:
        options.append(f"confidential-guest-support={_GUEST}")
        guest = ["-object", strictjson.canonical({"id": _GUEST, **how.guest(host)}).decode()]
    model, comma, identity = platform.cpu.partition(",")
    destinations = _DESTINATIONS if how.kvm and size.vcpus > PLAIN_VCPUS else ""
    argv = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        ",".join([platform.machine, *options]),
        *how.argument,
        *guest,
        "-cpu",
        (how.cpu_model or model) + comma + identity + destinations,
        "-smp",
        f"{size.vcpus},sockets={size.vcpus},cores=1,threads=1" if platform.sockets else str(size.vcpus),
        "-m",
        f"{size.memory >> 20}M",
        "-bios",
        host.firmware,
    ]
    if platform.serial:
        argv += ["-serial", host.serial]
    if platform.uuid is not None:
        argv += ["-uuid", platform.uuid]
    if platform.boot:
        argv += ["-boot", ",".join(f"{key}={value}" for key, value in platform.boot)]
    for key, value in platform.globals:
        argv += ["-global", f"{key}={value}"]
    if host.kernel is not None:
        argv += ["-kernel", host.kernel]
    argv += _devices(platform, host, how)
    if platform.tpm and host.tpm_socket is not None:
        argv += [
            "-chardev",
            f"socket,id=tpm,path={option(host.tpm_socket)}",
            "-tpmdev",
            "emulator,id=tpm0,chardev=tpm",
        ]
        argv += ["-device", "tpm-tis,tpmdev=tpm0"]
    if host.qmp_socket is not None:
        argv += ["-qmp", f"unix:{option(host.qmp_socket)},server=on,wait=off"]
    for name, path in host.fw_cfg:
        argv += ["-fw_cfg", f"name={name},file={option(path)}"]
    return [*argv, *extra]


def _devices(platform: Platform, host: HostSide, how: Accelerator) -> list[str]:
    argv: list[str] = []
    disks, cards, passed = 0, 0, 0
    forwarded = usernetwork.forwarded(host.network) if host.forwards else None
    for device in sorted(platform.devices, key=lambda device: device.slot):
        place = f"bus=pcie.0,addr={device.slot:#x}"
        if device.bootindex is not None:
            place += f",bootindex={device.bootindex}"
        if device.kind == "virtio-blk":
            # If only the blobs are needed, a drive without a file keeps the device and therefore the tables
            # unchanged.
            path = host.disks[disks] if disks < len(host.disks) else None
            node = f"disk{disks}"
            if path is None:
                argv += ["-blockdev", f"driver=null-co,node-name={node},size=1048576,read-only=on"]
            else:
                argv += [
                    "-blockdev",
                    f"driver=raw,node-name={node},read-only=on,file.driver=file,file.filename={option(path)}",
                ]
            argv += ["-device", f"virtio-blk-pci,drive={node},{place}"]
            disks += 1
        elif device.kind == "virtio-net":
            rom = "" if device.rom else "romfile=,"
            card = host.network[cards] if cards < len(host.network) else Card(DHCP)
            network = usernetwork.netdev(f"net{cards}", card, host.forwards if cards == forwarded else ())
            address = mac_addresses(platform.devices)[device].hex(":")
            argv += ["-netdev", network, "-device", f"virtio-net-pci,netdev=net{cards},mac={address},{rom}{place}"]
            cards += 1
        elif device.kind == MEMORY:
            if how.host_devices and host.cards:
                argv += _card(device, place, host, passed)
                passed += 1
            else:
                argv += _memory(device, place, alone=not how.runs)
        else:
            argv += ["-device", f"{_driver(device, host, how)},{place}"]
    return argv


def _driver(device: Device, host: HostSide, how: Accelerator) -> str:
    kind = KINDS[device.kind]
    if kind.stand_in:
        return f"{kind.driver},guest-cid={host.guest_cid}" if how.host_devices else kind.stand_in
    return kind.driver


def _card(device: Device, place: str, host: HostSide, number: int) -> list[str]:
    """A card of the host behind its own root port, by VFIO; ``RecipeError`` for a device that no card can be."""
    if not device.port or device.functions or number >= len(host.cards):
        raise RecipeError(
            f"device at slot {device.slot}: got no card for it, expected a card of the host behind a port",
            hint="give the address of one card for each, with --gpu",
        )
    name = f"port{device.slot}"
    return [
        "-device",
        f"pcie-root-port,id={name},chassis={device.slot},{place}",
        "-object",
        f"iommufd,id=iommufd{number}",
        "-device",
        f"{KINDS[MEMORY].driver},host={host.cards[number]},iommufd=iommufd{number},bus={name},addr=0x0",
    ]


def _memory(device: Device, place: str, *, alone: bool) -> list[str]:
    """A stand-in device; ``alone``: only the tables are needed, so one function with its first BAR is enough."""
    argv: list[str] = []
    if len(device.bars) > 1 and not device.functions and not alone:
        raise RecipeError(
            f"device at slot {device.slot}: QEMU has no function with {len(device.bars)} large BARs to boot with"
        )
    if device.port:
        argv += ["-device", f"pcie-root-port,id=port{device.slot},chassis={device.slot},{place}"]
        place = f"bus=port{device.slot},addr=0x0"
    if not device.functions:
        return [*argv, "-device", f"{KINDS[MEMORY].stand_in},membar={device.bars[0]},{place}"]
    for number, bar in enumerate(device.bars):
        argv += ["-device", f"{KINDS[MEMORY].stand_in},membar={bar},{place}.{number:x},multifunction=on"]
    return argv
