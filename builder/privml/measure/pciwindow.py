"""Where OVMF puts 64-bit PCI BARs: QEMU writes that address into the DSDT, which is measured.

QEMU builds the ACPI tables when firmware first asks for them, after it has programmed the BARs; the PCI hole that the
DSDT describes begins at the lowest 64-bit BAR. Reading the tables without firmware (qtest) therefore needs one
device with a 64-bit BAR at this address and its memory decoding on. Machines without such a BAR need nothing.
Source: edk2 OvmfPkg/Library/PlatformInitLib/MemDetect.c (PlatformAddressWidthFromCpuid, PlatformDynamicMmioWindow,
PlatformReservationConflictCB); QEMU 11.1 hw/pci-host/q35.c. Seen in software-TPM boots for both windows.
"""

from __future__ import annotations

import struct
from typing import Literal

from privml.base.errors import MeasurementError

E820 = "etc/e820"
_ENTRY = struct.Struct("<QQI")
_GIB = 1 << 30
_CLASSIC_SIZE = 32 * _GIB
_RAM = 1

Vendor = Literal["GenuineIntel", "AuthenticAMD"]


def window_base(e820: bytes, *, vendor: Vendor, phys_bits: int, gigabyte_pages: bool) -> int:
    """The first address of the 64-bit PCI window.

    ``e820`` is QEMU's fw_cfg file of that name; the rest is what CPUID tells the guest: vendor, physical address bits
    and 1 GiB pages. ``MeasurementError`` for a malformed ``e820``. Not modelled: etc/reserved-memory-end (memory
    hot-plug), opt/ovmf/X-PciMmio64Mb.
    """
    entries = _entries(e820)
    end = max((start + length for start, length, kind in entries if kind == _RAM), default=0)
    base = _align(_align(max(end, 4 * _GIB), _GIB), _CLASSIC_SIZE)
    bits = _usable_bits(vendor, phys_bits, gigabyte_pages)
    if bits is None:
        return base
    size = 1 << (bits - 3)
    if not (size > _CLASSIC_SIZE and base + size < 1 << bits):
        return base
    base = (1 << bits) - size
    for start, length, _ in entries:
        if max(start, base) < min(start + length, base + size):
            base = (start - size) & ~(size - 1)
    return base


def _usable_bits(vendor: Vendor, bits: int, gigabyte_pages: bool) -> int | None:
    """Physical address bits as OVMF believes them: QEMU's default of 40 is no news on an Intel CPU."""
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
