"""Where OVMF puts 64-bit PCI BARs: QEMU writes their range into the DSDT, which is measured.

QEMU builds the ACPI tables when firmware first asks for them, after it has programmed the BARs; the PCI hole that the
DSDT describes begins at the root bus's lowest 64-bit BAR or prefetchable bridge window, and ends at the highest, or
32 GiB after the beginning when that is further. Reading the tables without firmware (qtest) therefore needs the
devices' BARs at these addresses and their memory decoding on. Machines without such a BAR need nothing.
Source: edk2 OvmfPkg/Library/PlatformInitLib/MemDetect.c (PlatformAddressWidthFromCpuid, PlatformDynamicMmioWindow,
PlatformReservationConflictCB), MdeModulePkg/Bus/Pci/PciBusDxe/PciResourceSupport.c (CalculateResourceAperture); QEMU
11.1 hw/pci-host/q35.c, hw/pci/pci.c (pci_bus_get_w64_range). Seen in software-TPM boots for both windows, and with
BARs of up to 128 GiB on the root bus and behind a root port.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import MeasurementError
from privml.machine.platform import KINDS, MEMORY, Device

E820 = "etc/e820"
_ENTRY = struct.Struct("<QQI")
_GIB = 1 << 30
_CLASSIC_SIZE = 32 * _GIB
_RAM = 1

Vendor = Literal["GenuineIntel", "AuthenticAMD"]


@dataclass(frozen=True)
class Window:
    """The 64-bit PCI window: first address and size in bytes."""

    base: int
    size: int


def window(e820: bytes, *, vendor: Vendor, phys_bits: int, gigabyte_pages: bool) -> Window:
    """The window as OVMF lays it out.

    ``e820`` is QEMU's fw_cfg file of that name; the rest is what CPUID tells the guest: vendor, physical address bits
    and 1 GiB pages. ``MeasurementError`` for a malformed ``e820``. Not modelled: etc/reserved-memory-end (memory
    hot-plug), opt/ovmf/X-PciMmio64Mb.
    """
    entries = _entries(e820)
    end = max((start + length for start, length, kind in entries if kind == _RAM), default=0)
    classic = Window(_align(_align(max(end, 4 * _GIB), _GIB), _CLASSIC_SIZE), _CLASSIC_SIZE)
    bits = _usable_bits(vendor, phys_bits, gigabyte_pages)
    if bits is None:
        return classic
    size = 1 << (bits - 3)
    if not (size > _CLASSIC_SIZE and classic.base + size < 1 << bits):
        return classic
    base = (1 << bits) - size
    for start, length, _ in entries:
        if max(start, base) < min(start + length, base + size):
            base = (start - size) & ~(size - 1)
    return Window(base, size)


@dataclass(frozen=True)
class Bar:
    """A placed 64-bit BAR on the root bus (configuration ``register``), or a root port's window (``register`` 0)."""

    slot: int
    register: int
    address: int
    size: int


_WINDOW_UNIT = 1 << 20


@dataclass(frozen=True)
class _Node:
    """A device's share of the window, as PciBusDxe's resource node: alignment, length, owner."""

    alignment: int
    length: int
    slot: int
    register: int


def _node(device: Device) -> _Node:
    register, size = KINDS[device.kind].bar
    if device.kind != MEMORY:
        return _Node(size, size, device.slot, register)
    largest = max(device.bars)
    if not device.port:
        return _Node(largest, largest, device.slot, register)
    return _Node(largest, _align(sum(device.bars), _WINDOW_UNIT), device.slot, 0)


def _insert(nodes: list[_Node], node: _Node) -> None:
    """PciBusDxe's InsertResourceNode: by falling alignment; among equals before the first that it need not follow."""
    rest = node.length % node.alignment
    index = 0
    for other in nodes:
        if node.alignment > other.alignment:
            break
        if node.alignment == other.alignment and (rest == 0 or rest >= other.length % other.alignment):
            break
        index += 1
    nodes.insert(index, node)


def placed(window: Window, devices: Iterable[Device]) -> tuple[Bar, ...]:
    """Where OVMF puts the devices' 64-bit BARs and their ports' windows.

    A BAR is aligned to its size, a window to its largest BAR; a window holds its BARs one behind the other and ends
    at a whole MiB. The largest come first. ``MeasurementError`` when they do not fit into the machine's window.
    """
    prefetchable: list[_Node] = []
    for device in sorted(devices, key=lambda one: one.slot):
        _insert(prefetchable, _node(device))
    combined: list[_Node] = []  # the root bridge has one window for both kinds of 64-bit memory
    for node in prefetchable:
        _insert(combined, node)
    bars: list[Bar] = []
    at = window.base
    for node in combined:
        at = _align(at, node.alignment)
        bars.append(Bar(node.slot, node.register, at, node.length))
        at += node.length
    if at > window.base + window.size:
        raise MeasurementError(
            f"PCI: the devices' BARs end at {at:#x}, the firmware's window at {window.base + window.size:#x}",
            hint="a machine with more physical address bits has a larger window",
        )
    return tuple(bars)


def _usable_bits(vendor: Vendor, bits: int, gigabyte_pages: bool) -> int | None:
    """Physical address bits that OVMF uses: it ignores QEMU's default of 40 on an Intel CPU."""
    plausible = (36, 39) if vendor == "GenuineIntel" else (40,)
    if bits < 41 and bits not in plausible:
        return None
    return min(bits, 46 if gigabyte_pages else 40)


def _entries(e820: bytes) -> list[tuple[int, int, int]]:
    if len(e820) % _ENTRY.size:
        raise MeasurementError(f"{E820}: {len(e820)} bytes, expected a multiple of {_ENTRY.size}")
    return [_ENTRY.unpack_from(e820, offset) for offset in range(0, len(e820), _ENTRY.size)]


def _align(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def ram(e820: bytes) -> int:
    """The machine's memory in bytes, by QEMU's ``etc/e820``; ``MeasurementError`` when it lists none."""
    total = sum(length for _, length, kind in _entries(e820) if kind == _RAM)
    if not total:
        raise MeasurementError(f"{E820}: it is not there, or lists no RAM")
    return total
