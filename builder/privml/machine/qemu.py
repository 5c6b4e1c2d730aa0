"""The QEMU argument list of a platform, a shape and what to boot. Pure: run, qtest and launch all use this one.

No ``-uuid``, and no SMBIOS options of an honest host: type 1 would carry host-chosen text into RTMR0. Option ROMs are
off unless a device says otherwise: outside a TD they are measured into RTMR1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import RecipeError
from privml.machine.platform import Device, Platform, Shape, mac_addresses


@dataclass(frozen=True)
class Boot:
    """What to boot and how to reach it. Paths are as QEMU sees them.

    ``serial`` is QEMU's character device: the port itself is always there, since the ACPI tables name it.
    ``disks`` go to the platform's virtio-blk devices in slot order, read-only. ``forwards`` are (host port, guest
    port) pairs on 127.0.0.1. What a host may do against us: ``append`` (the stub then takes it for load options),
    ``initrd``, ``oem_strings`` (SMBIOS type 11), ``writable`` disks, and ``extra``, arguments of any kind that come
    last.
    """

    firmware: str
    kernel: str | None = None
    append: str | None = None
    initrd: str | None = None
    oem_strings: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    forwards: tuple[tuple[int, int], ...] = ()
    serial: str = "null"
    tpm_socket: str | None = None
    qmp_socket: str | None = None
    fw_cfg: tuple[tuple[str, str], ...] = ()
    capture: str | None = None
    writable: bool = False
    extra: tuple[str, ...] = ()


Accelerator = Literal["tcg", "kvm", "qtest"]


def arguments(platform: Platform, shape: Shape, boot: Boot, accelerator: Accelerator, *extra: str) -> list[str]:
    """argv after the program's name. ``kernel_irqchip`` exists with KVM only and leaves no trace in the tables."""
    options = [f"{key}={value}" for key, value in platform.options if key != "kernel_irqchip" or accelerator == "kvm"]
    argv = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        ",".join([platform.machine, *options]),
        "-accel",
        {"tcg": "tcg,thread=multi", "kvm": "kvm", "qtest": "qtest"}[accelerator],
        "-cpu",
        platform.cpu,
        "-smp",
        str(shape.vcpus),
        "-m",
        f"{shape.memory >> 20}M",
        "-bios",
        boot.firmware,
        "-serial",
        boot.serial,
    ]
    if boot.kernel is not None:
        argv += ["-kernel", boot.kernel]
    if boot.append is not None:
        argv += ["-append", boot.append]
    if boot.initrd is not None:
        argv += ["-initrd", boot.initrd]
    for text in boot.oem_strings:
        argv += ["-smbios", f"type=11,value={text}"]
    argv += _devices(platform, boot, qtest=accelerator == "qtest")
    if platform.tpm and boot.tpm_socket is not None:
        argv += ["-chardev", f"socket,id=tpm,path={boot.tpm_socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        argv += ["-device", "tpm-tis,tpmdev=tpm0"]
    if boot.qmp_socket is not None:
        argv += ["-qmp", f"unix:{boot.qmp_socket},server=on,wait=off"]
    for name, path in boot.fw_cfg:
        argv += ["-fw_cfg", f"name={name},file={path}"]
    return [*argv, *extra, *boot.extra]


def _devices(platform: Platform, boot: Boot, *, qtest: bool) -> list[str]:
    argv: list[str] = []
    disks, cards = 0, 0
    for device in sorted(platform.devices, key=lambda device: device.slot):
        place = f"bus=pcie.0,addr={device.slot:#x}"
        if device.kind == "virtio-blk":
            # A drive without a file keeps the device, and so the tables, the same when only the blobs are wanted.
            path = boot.disks[disks] if disks < len(boot.disks) else None
            node = f"disk{disks}"
            if path is None:
                argv += ["-blockdev", f"driver=null-co,node-name={node},size=1048576,read-only=on"]
            else:
                access = "off" if boot.writable else "on"
                argv += [
                    "-blockdev",
                    f"driver=raw,node-name={node},read-only={access},file.driver=file,file.filename={path}",
                ]
            argv += ["-device", f"virtio-blk-pci,drive={node},{place}"]
            disks += 1
        elif device.kind == "virtio-net":
            rom = "" if device.rom else "romfile=,"
            # Ports are forwarded to, and packets taken from, the first card.
            network = _network(f"net{cards}", () if cards else boot.forwards)
            address = mac_addresses(platform.devices)[device].hex(":")
            argv += ["-netdev", network, "-device", f"virtio-net-pci,netdev=net{cards},mac={address},{rom}{place}"]
            if boot.capture is not None and not cards:
                argv += ["-object", f"filter-dump,id=dump0,netdev=net0,file={boot.capture}"]
            cards += 1
        elif device.kind == "memory":
            argv += _memory(device, place, alone=qtest)
        else:
            raise ValueError(f"device kind `{device.kind}`")
    return argv


def _memory(device: Device, place: str, *, alone: bool) -> list[str]:
    """A stand-in; ``alone``: only the tables are wanted, and one function with its first BAR will do."""
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


def _network(name: str, forwards: Sequence[tuple[int, int]]) -> str:
    words = ["user", f"id={name}", "restrict=on"]
    words += [f"hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in forwards]
    return ",".join(words)
