"""PCI option ROMs: the drivers that firmware loads from a card, and measures.

Outside a TD each driver is an event in RTMR1, before anything that boots. In a TD firmware ignores option ROMs
(edk2 OvmfPkg/IncompatiblePciDeviceSupportDxe: no option ROM when CcProbe() finds a TD), so nothing is measured.
Source: PCI Firmware Specification 3.3 section 5; UEFI 2.10 section 14.4.2; edk2 MdeModulePkg/Bus/Pci/PciBusDxe
PciOptionRomSupport.c (ProcessOpRomImage: decompress, then LoadImage, which measures the PE image).
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.events.types import EV_EFI_BOOT_SERVICES_DRIVER, EV_EFI_RUNTIME_SERVICES_DRIVER
from privml.measure import lzh, pe
from privml.measure.digest import piece, unsigned

_UNIT = 512
_EFI_CODE, _LAST = 3, 0x80
_EFI_SIGNATURE = 0x0EF1
_X64 = 0x8664
_TYPES = {11: EV_EFI_BOOT_SERVICES_DRIVER, 12: EV_EFI_RUNTIME_SERVICES_DRIVER}
_MAX_IMAGES = 32


@dataclass(frozen=True)
class Driver:
    """One UEFI driver of a ROM: its event's TCG type and its Authenticode SHA-384."""

    type: int
    authenticode: bytes


def drivers(rom: bytes) -> tuple[Driver, ...]:
    """The drivers for x86-64 in a ROM file, in order; images for a BIOS or another processor are skipped.

    ``MeasurementError`` for a malformed ROM.
    """
    found: list[Driver] = []
    at = 0
    for _ in range(_MAX_IMAGES):
        if piece(rom, at, 2, "option ROM") != b"\x55\xaa":
            raise MeasurementError(f"option ROM: no 55 aa at byte {at}")
        data = at + unsigned(rom, at + 0x18, 2, "option ROM")
        if piece(rom, data, 4, "option ROM") != b"PCIR":
            raise MeasurementError(f"option ROM: the image at byte {at} has no PCIR structure")
        size = unsigned(rom, data + 0x10, 2, "option ROM") * _UNIT
        if size == 0:
            raise MeasurementError(f"option ROM: the image at byte {at} says that it is empty")
        code, indicator = (unsigned(rom, data + offset, 1, "option ROM") for offset in (0x14, 0x15))
        if code == _EFI_CODE:
            found += _driver(piece(rom, at, size, "option ROM image"))
        if indicator & _LAST:
            return tuple(found)
        at += size
    raise MeasurementError(f"option ROM: more than {_MAX_IMAGES} images")


def _driver(image: bytes) -> list[Driver]:
    if unsigned(image, 4, 4, "option ROM image") != _EFI_SIGNATURE:
        raise MeasurementError("option ROM: a UEFI image without its signature")
    subsystem, machine, packed = (unsigned(image, at, 2, "option ROM image") for at in (8, 10, 12))
    if machine != _X64:
        return []
    if subsystem not in _TYPES:
        raise MeasurementError(f"option ROM: a UEFI image of subsystem {subsystem}, expected a driver")
    start = unsigned(image, 0x16, 2, "option ROM image")
    size = unsigned(image, 2, 2, "option ROM image") * _UNIT
    body = piece(image, start, size - start, "option ROM image")
    if packed not in (0, 1):
        raise MeasurementError(f"option ROM: compression {packed} is not known")
    return [Driver(_TYPES[subsystem], pe.authenticode(lzh.decompress(body) if packed else body))]
