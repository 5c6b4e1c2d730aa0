"""Platforms and shapes: all properties of the virtual machine that affect its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import RecipeError
from privml.base.sizes import PLAIN_VCPUS, size_text


@dataclass(frozen=True)
class Kind:
    """A kind of device: QEMU's ``driver`` for it, and the register and size of its 64-bit BAR.

    ``stand_in`` is the driver where the machine has no host behind it, if that is another one: the tables do not
    depend on the driver (ADR 0035).
    """

    driver: str
    bar: tuple[int, int]
    stand_in: str = ""


_VIRTIO = (0x20, 0x4000)
MEMORY = "memory"
KINDS: Mapping[str, Kind] = {
    "virtio-blk": Kind("virtio-blk-pci", _VIRTIO),
    "virtio-net": Kind("virtio-net-pci", _VIRTIO),
    "virtio-rng": Kind("virtio-rng-pci", _VIRTIO),
    "virtio-balloon": Kind("virtio-balloon-pci", _VIRTIO),
    "virtio-serial": Kind("virtio-serial-pci", _VIRTIO),
    "vsock": Kind("vhost-vsock-pci", _VIRTIO, stand_in="virtio-rng-pci"),
    MEMORY: Kind("vfio-pci", (0x18, 0), stand_in="pci-testdev"),
}
"""Every kind of device that a machine can have. The BARs of ``memory`` are its own."""


@dataclass(frozen=True)
class Device:
    """One PCI device: ``kind`` is one of `KINDS`, ``slot`` its number on the root bus (1 to 30).

    A ``memory`` device stands in for one with large 64-bit prefetchable BARs of ``bars`` bytes (powers of two), such
    as a GPU. ``port``: it is behind its own PCIe root port, which has the slot. ``functions``: each BAR is a separate
    function; QEMU has no single function with several large BARs, so only this form can boot. The tables of a card
    with one function are read with its first BAR and a window for all. ``rom``: a network card keeps QEMU's option
    ROM. ``bootindex`` is its place in QEMU's boot order, which firmware measures.
    """

    kind: str
    slot: int
    bars: tuple[int, ...] = ()
    port: bool = False
    functions: bool = False
    rom: bool = False
    bootindex: int | None = None

    def __post_init__(self) -> None:
        where = f"device at slot {self.slot}"
        if self.kind not in KINDS:
            raise RecipeError(f"{where}: got `{self.kind}`, expected {', '.join(KINDS)}")
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


PageOrder = Literal["single-pass", "two-pass"]
"""The order in which a VMM adds and measures the pages of a TD."""


@dataclass(frozen=True)
class Tables:
    """The tables of a learnt platform: SHA-256 and size of the object in the store (`measure.tables`)."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Platform:
    """A QEMU version with machine type, CPU identity and devices in their slots.

    ``cpu`` is QEMU's ``-cpu`` value; ``vendor`` and ``phys_bits`` are its parts by which firmware lays out memory
    (1 GiB pages are always on). ``tpm`` adds a software TPM (swtpm): for development and for comparing logs, never
    for a TD. ``qemu`` is the exact version that the ACPI and SMBIOS blobs come from; ``booted``: a boot has shown
    that firmware gets these blobs. ``tee`` is what its guests run in; None is for development. ``max_vcpus`` above
    255 needs interrupts with extended destination ids (ADR 0059).

    ``sockets``: each vCPU is a socket of its own instead of a core. ``serial``: there is a serial port. ``uuid``,
    ``boot`` (QEMU's ``-boot``) and ``globals`` are set only where a machine has them. A learnt platform has its
    ``tables`` instead of a QEMU that is asked, and the SHA-256 of its QEMU's binary (ADR 0082). Of an SNP guest,
    ``cpu_signature`` is the CPUID signature of its vCPUs, and ``sev_features`` their SEV_FEATURES.
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
    page_order: PageOrder | None = None
    sockets: bool = False
    serial: bool = True
    uuid: str | None = None
    boot: tuple[tuple[str, str], ...] = ()
    globals: tuple[tuple[str, str], ...] = ()
    tables: Tables | None = None
    binary: str | None = None
    cpu_signature: int | None = None
    sev_features: int = 1

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
