"""Platforms and shapes: all properties of the virtual machine that affect its measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import RecipeError
from privml.base.sizes import PLAIN_VCPUS, size_text


@dataclass(frozen=True)
class Device:
    """One PCI device: ``kind`` is ``virtio-blk``, ``virtio-net`` or ``memory``, ``slot`` its number on the root bus
    (1 to 30).

    A ``memory`` device stands in for one with large 64-bit prefetchable BARs of ``bars`` bytes (powers of two), such
    as a GPU. ``port``: it is behind its own PCIe root port, which has the slot. ``functions``: each BAR is a separate
    function; QEMU has no single function with several large BARs, so only this form can boot. The tables of a card
    with one function are read with its first BAR and a window for all. ``rom``: a network card keeps QEMU's option
    ROM.
    """

    kind: str
    slot: int
    bars: tuple[int, ...] = ()
    port: bool = False
    functions: bool = False
    rom: bool = False

    def __post_init__(self) -> None:
        where = f"device at slot {self.slot}"
        if self.kind != "memory" and (self.bars or self.port or self.functions):
            raise RecipeError(f"{where}: {self.kind} has no BARs to choose and no root port")
        if self.kind == "memory" and not 1 <= len(self.bars) <= (8 if self.port else 1):
            raise RecipeError(f"{where}: {len(self.bars)} BARs, expected one, or up to eight behind a root port")
        for bar in self.bars:
            if bar < 1 << 20 or bar & (bar - 1):
                raise RecipeError(f"{where}: a BAR of {bar} bytes, expected a power of two from 1 MiB")
        if self.kind != "virtio-net" and self.rom:
            raise RecipeError(f"{where}: {self.kind} has no option ROM")


_FIRST_MAC = 0x525400123456


def mac_addresses(devices: Iterable[Device]) -> dict[Device, bytes]:
    """MAC addresses in slot order: QEMU's defaults, set explicitly so that a change of default cannot move
    measurements."""
    cards = [one for one in sorted(devices, key=lambda one: one.slot) if one.kind == "virtio-net"]
    return {card: (_FIRST_MAC + number).to_bytes(6, "big") for number, card in enumerate(cards)}


@dataclass(frozen=True)
class Platform:
    """A QEMU version with machine type, CPU identity and devices in their slots.

    ``cpu`` is QEMU's ``-cpu`` value; ``vendor`` and ``phys_bits`` are its parts by which firmware lays out memory
    (1 GiB pages are always on). ``tpm`` adds a software TPM (swtpm): for development and for comparing logs, never
    for a TD. ``qemu`` is the exact version that the ACPI and SMBIOS blobs come from; ``booted``: a boot has shown
    that firmware gets these blobs. ``tee`` is what its guests run in; None is for development. ``max_vcpus`` above
    255 needs interrupts with extended destination ids (ADR 0059).
    """

    name: str
    qemu: str
    machine: str
    options: tuple[tuple[str, str], ...]
    cpu: str
    vendor: Literal["GenuineIntel", "AuthenticAMD"]
    phys_bits: int
    devices: tuple[Device, ...]
    tpm: bool = False
    tee: str | None = "tdx"
    booted: bool = True
    max_vcpus: int = PLAIN_VCPUS

    def check(self, size: Size) -> None:
        """``RecipeError`` for a machine with more virtual CPUs than this platform declares."""
        if size.vcpus > self.max_vcpus:
            raise RecipeError(
                f"platform {self.name}: {size.vcpus} vCPUs, expected at most {self.max_vcpus}",
                hint=f"a platform with more than {PLAIN_VCPUS} says so with `max_vcpus`",
            )

    def __post_init__(self) -> None:
        slots = [device.slot for device in self.devices]
        if len(set(slots)) != len(slots):
            raise RecipeError(f"platform {self.name}: two devices share a slot: {sorted(slots)}")


@dataclass(frozen=True)
class Size:
    """A size of the virtual machine; ``memory`` is in bytes."""

    vcpus: int
    memory: int

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU / {size_text(self.memory)}"
