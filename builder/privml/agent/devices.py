"""Compare the machine's PCI devices with the declared list; a device that the recipe does not name fails the boot.

The list has one name per device (`virtio-blk`, `virtio-blk`, `virtio-net`). The chipset of the machine type is in
every guest and is not declared. The host controls what a device claims to be, so this check proves nothing; it keeps
drivers away from devices that the recipe did not plan for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from privml.base.errors import HostError

_VIRTIO = {
    1: "virtio-net",
    2: "virtio-blk",
    3: "virtio-serial",
    4: "virtio-rng",
    5: "virtio-balloon",
    8: "virtio-scsi",
    16: "virtio-gpu",
    18: "virtio-input",
    19: "virtio-vsock",
    26: "virtio-fs",
}
_TRANSITIONAL = {
    0x1000: "virtio-net",
    0x1001: "virtio-blk",
    0x1002: "virtio-balloon",
    0x1003: "virtio-serial",
    0x1004: "virtio-scsi",
    0x1005: "virtio-rng",
    0x1009: "virtio-9p",
}
_CHIPSET = {
    (0x8086, 0x29C0): "q35 host bridge",
    (0x8086, 0x2918): "ich9 isa bridge",
    (0x8086, 0x2922): "ich9 ahci",
    (0x8086, 0x2930): "ich9 smbus",
}
# A root port allows a later hot-plug, so it must be declared like a device.
_PORTS = {(0x1B36, 0x000C): "pcie-root-port", (0x1B36, 0x000E): "pcie-pci-bridge"}
_NVIDIA = 0x10DE


def kind(vendor: int, device: int, class_code: int) -> str | None:
    """The declared name of a PCI vendor and device id; None for the chipset."""
    if (vendor, device) in _CHIPSET:
        return None
    if (vendor, device) in _PORTS:
        return _PORTS[vendor, device]
    if vendor == 0x1AF4 and 0x1040 <= device < 0x1080:
        return _VIRTIO.get(device - 0x1040, f"virtio-{device - 0x1040}")
    if vendor == 0x1AF4 and device in _TRANSITIONAL:
        return _TRANSITIONAL[device]
    if vendor == _NVIDIA and class_code >> 8 in (0x0300, 0x0302):
        return "nvidia-gpu"
    if vendor == _NVIDIA and class_code >> 8 == 0x0680:
        return "nvidia-nvswitch"
    return f"pci-{vendor:04x}:{device:04x}"


def present(root: Path) -> list[str]:
    """Names of the devices under ``root`` (``/sys/bus/pci/devices``), sorted."""
    try:
        entries = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    names = [kind(*(_number(entry / file) for file in ("vendor", "device", "class"))) for entry in entries]
    return sorted(name for name in names if name is not None)


def check(declared: Iterable[str], found: Iterable[str]) -> None:
    """Raise ``HostError`` naming every undeclared and every missing device."""
    want, have = Counter(declared), Counter(found)
    extra, missing = have - want, want - have
    faults = [f"{count} x {name} not declared" for name, count in sorted(extra.items())]
    faults += [f"{count} x {name} declared but not present" for name, count in sorted(missing.items())]
    if faults:
        raise HostError(f"devices: {'; '.join(faults)}")


def _number(path: Path) -> int:
    return int(path.read_text().strip(), 16)
