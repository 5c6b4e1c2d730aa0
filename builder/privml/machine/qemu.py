"""Build the QEMU argument list from a platform, a size and the host's resources, for run, qtest and launch alike.

No ``-uuid`` and no SMBIOS options are set, because SMBIOS type 1 would measure host-chosen text into RTMR0. Option
ROMs are off unless a device enables them, because outside a TD they are measured into RTMR1.
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
from privml.machine.platform import Device, Platform, Size, mac_addresses


@dataclass(frozen=True)
class HostSide:
    """The host's resources for a machine: boot files, and files and sockets of its devices.

    Paths are as QEMU sees them. ``serial`` is QEMU's character device: the port itself is always there, since the
    ACPI tables name it. ``disks`` go to the platform's virtio-blk devices in slot order, read-only. ``forwards`` are
    (host port, guest port) pairs on 127.0.0.1. ``network`` says what the guest does with its cards, in slot order
    (empty: DHCP). ``quote_socket`` is the vsock address (CID, port) of the host's quote
    generation service; only a TD uses it.
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
    quote_socket: tuple[int, int] | None = None


@dataclass(frozen=True)
class Accelerator:
    """A way to run a machine, and its effect on the argument list.

    ``kvm``: it needs /dev/kvm, and the machine takes the options that only KVM knows. ``runs`` is False where the
    guest never runs and only its tables are read. ``guest`` makes the confidential guest object. ``cpu_model`` takes
    the place of the platform's CPU model; the properties that identify the CPU stay as they are.
    """

    accel: str
    kvm: bool = False
    runs: bool = True
    guest: Callable[[HostSide], dict[str, object]] | None = None
    cpu_model: str | None = None


def _tdx_guest(host: HostSide) -> dict[str, object]:
    guest: dict[str, object] = {"qom-type": "tdx-guest", "sept-ve-disable": True}
    if host.quote_socket is not None:
        cid, port = host.quote_socket
        guest["quote-generation-socket"] = {"type": "vsock", "cid": str(cid), "port": str(port)}
    return guest


AcceleratorName: TypeAlias = Literal["tcg", "kvm", "qtest", "tdx"]
ACCELERATORS: Mapping[AcceleratorName, Accelerator] = {
    "tcg": Accelerator("tcg,thread=multi"),
    "kvm": Accelerator("kvm", kvm=True),
    "qtest": Accelerator("qtest", runs=False),
    # QEMU starts a TD with the host's CPU model only (target/i386/kvm/tdx.c, tdx_cpu_instance_init).
    "tdx": Accelerator("kvm", kvm=True, guest=_tdx_guest, cpu_model="host"),
}
_KVM_OPTIONS = ("kernel_irqchip",)  # does not affect the tables
# Above 255 CPUs: how the guest addresses interrupts to them without an IOMMU, which a TD could not trust (ADR 0059).
# QEMU's default with a split irqchip.
_DESTINATIONS = ",kvm-msi-ext-dest-id=on"
_GUEST = "guest0"


def arguments(platform: Platform, size: Size, host: HostSide, accelerator: AcceleratorName, *extra: str) -> list[str]:
    """argv without the program name; ``extra`` comes last. ``RecipeError`` for a size that the platform has not."""
    platform.check(size)
    how = ACCELERATORS[accelerator]
    options = [f"{key}={value}" for key, value in platform.options if how.kvm or key not in _KVM_OPTIONS]
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
        "-accel",
        how.accel,
        *guest,
        "-cpu",
        (how.cpu_model or model) + comma + identity + destinations,
        "-smp",
        str(size.vcpus),
        "-m",
        f"{size.memory >> 20}M",
        "-bios",
        host.firmware,
        "-serial",
        host.serial,
    ]
    if host.kernel is not None:
        argv += ["-kernel", host.kernel]
    argv += _devices(platform, host, runs=how.runs)
    if platform.tpm and host.tpm_socket is not None:
        argv += ["-chardev", f"socket,id=tpm,path={host.tpm_socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        argv += ["-device", "tpm-tis,tpmdev=tpm0"]
    if host.qmp_socket is not None:
        argv += ["-qmp", f"unix:{host.qmp_socket},server=on,wait=off"]
    for name, path in host.fw_cfg:
        argv += ["-fw_cfg", f"name={name},file={path}"]
    return [*argv, *extra]


def _devices(platform: Platform, host: HostSide, *, runs: bool) -> list[str]:
    argv: list[str] = []
    disks, cards = 0, 0
    forwarded = usernetwork.forwarded(host.network) if host.forwards else None
    for device in sorted(platform.devices, key=lambda device: device.slot):
        place = f"bus=pcie.0,addr={device.slot:#x}"
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
                    f"driver=raw,node-name={node},read-only=on,file.driver=file,file.filename={path}",
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
        elif device.kind == "memory":
            argv += _memory(device, place, alone=not runs)
        else:
            raise ValueError(f"device kind `{device.kind}`")
    return argv


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
        return [*argv, "-device", f"pci-testdev,membar={device.bars[0]},{place}"]
    for number, bar in enumerate(device.bars):
        argv += ["-device", f"pci-testdev,membar={bar},{place}.{number:x},multifunction=on"]
    return argv
