"""The table loader's commands and the PCI window, which decide the measured ACPI tables."""

import struct
from dataclasses import replace

import pytest

from privml.base.errors import MeasurementError
from privml.machine.platform import Device
from privml.measure import acpi, pciwindow

GIB = 1 << 30


def allocate(name: bytes) -> bytes:
    return (struct.pack("<I56sIB", 1, name, 16, 2)).ljust(128, b"\0")


POINTER = struct.pack("<I", 2).ljust(128, b"\0")
LOADER = allocate(b"etc/acpi/rsdp") + allocate(b"etc/tpm/log") + POINTER + allocate(b"etc/acpi/tables") + bytes(512)


def test_the_loader_comes_first_then_files_in_its_order() -> None:
    blobs = {"etc/acpi/tables": b"t", "etc/acpi/rsdp": b"r", "etc/tpm/log": b"l", "etc/table-loader": LOADER}
    assert acpi.measured(blobs) == (
        ("etc/table-loader", LOADER),
        ("etc/acpi/rsdp", b"r"),
        ("etc/tpm/log", b"l"),
        ("etc/acpi/tables", b"t"),
    )
    for name in blobs:
        with pytest.raises(MeasurementError, match=name):
            acpi.measured({key: value for key, value in blobs.items() if key != name})


@pytest.mark.parametrize(
    "loader",
    [
        LOADER[:-1],
        allocate(b""),
        allocate(b"x" * 56),
        allocate(b"\xff\xfe"),
        allocate(b"a") * 2,
        struct.pack("<I", 9).ljust(128, b"\0"),
        b"\0\0\0\0x".ljust(128, b"\0"),
    ],
)
def test_malformed_loaders_are_refused(loader: bytes) -> None:
    with pytest.raises(MeasurementError):
        acpi.allocated_files(loader)


def e820(*entries: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


RAM = (0, 2 * GIB, 1)
AMD_HOLE = (0xFD00000000, 0x300000000, 2)


@pytest.mark.parametrize(
    ("entries", "vendor", "bits", "pages", "base"),
    [
        ((AMD_HOLE, RAM), "AuthenticAMD", 40, True, 0xC000000000),  # seen in a boot
        ((RAM,), "GenuineIntel", 40, True, 0x800000000),  # seen in a boot
        ((RAM,), "AuthenticAMD", 40, True, 0xE000000000),
        ((RAM,), "GenuineIntel", 46, True, 0x380000000000),
        ((RAM,), "GenuineIntel", 52, True, 0x380000000000),
        ((RAM,), "GenuineIntel", 46, False, 0xE000000000),
        ((RAM,), "GenuineIntel", 36, True, 0x800000000),
        ((RAM, (4 * GIB, 40 * GIB, 1)), "GenuineIntel", 40, True, 0x1000000000),
    ],
)
def test_the_pci_window_depends_on_memory(
    entries: tuple[tuple[int, int, int], ...], vendor: str, bits: int, pages: bool, base: int
) -> None:
    assert vendor in ("GenuineIntel", "AuthenticAMD")
    found = pciwindow.window(e820(*entries), vendor=vendor, phys_bits=bits, gigabyte_pages=pages)
    assert found.base == base


def test_a_malformed_memory_map_is_refused() -> None:
    with pytest.raises(MeasurementError, match="e820"):
        pciwindow.window(b"x", vendor="GenuineIntel", phys_bits=46, gigabyte_pages=True)


VIRTIO = Device("virtio-blk", 2)
BIG = Device("memory", 6, bars=(8 * GIB,), port=True)


def test_bars_are_placed_by_size_and_slot() -> None:
    window = pciwindow.Window(0x380000000000, 1 << 43)
    devices = (VIRTIO, Device("virtio-net", 3), Device("memory", 5, bars=(GIB,)), BIG)
    assert pciwindow.placed(window, devices) == (
        pciwindow.Bar(6, 0, 0x380000000000, 8 * GIB),
        pciwindow.Bar(5, 0x18, 0x380200000000, GIB),
        pciwindow.Bar(2, 0x20, 0x380240000000, 0x4000),
        pciwindow.Bar(3, 0x20, 0x380240004000, 0x4000),
    )
    assert pciwindow.placed(window, ()) == ()


def test_bars_are_aligned_and_refused_when_they_do_not_fit() -> None:
    small = pciwindow.Window(4 * GIB, 16 * GIB)
    assert [bar.address for bar in pciwindow.placed(small, (BIG, VIRTIO))] == [8 * GIB, 16 * GIB]
    with pytest.raises(MeasurementError, match="end at 0x600000000, the firmware's window at 0x500000000"):
        pciwindow.placed(small, (BIG, replace(BIG, slot=7)))


def test_several_bars_share_a_window() -> None:
    """A window whose size is not a multiple of its alignment leaves a hole, so the order decides the end."""
    window = pciwindow.Window(0, 1 << 43)
    card = Device("memory", 5, bars=(16 << 20, 8 * GIB, 32 << 20), port=True)
    (bar,) = pciwindow.placed(window, (card,))
    assert bar == pciwindow.Bar(5, 0, 0, 8 * GIB + (48 << 20))
    two = pciwindow.placed(window, (card, replace(card, slot=6)))
    assert [(one.slot, one.address >> 30) for one in two] == [(5, 0), (6, 16)]
    mixed = pciwindow.placed(window, (card, replace(card, slot=6, bars=(8 * GIB,)), VIRTIO))
    assert [(one.slot, one.address) for one in mixed] == [(5, 0), (6, 16 * GIB), (2, 24 * GIB)]
    other = pciwindow.placed(window, (replace(card, bars=(8 * GIB,)), replace(card, slot=6), VIRTIO))
    assert [(one.slot, one.address >> 30) for one in other] == [(5, 0), (6, 8), (2, 16)]
