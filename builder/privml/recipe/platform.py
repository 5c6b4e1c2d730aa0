"""Platforms: virtual machines for which measurements are predicted, including PCI slots and CPU identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from privml.base.sizes import MAX_VCPUS, PLAIN_VCPUS
from privml.events import network
from privml.events.registers import LAUNCH, MRTD, RTMR0, shown
from privml.recipe import processors, tees
from privml.recipe.finding import RuleBroken
from privml.recipe.section import FIRMWARE, MACHINE, PROCESSORS, Section, Slug, about, given

MAX_DEVICES = 28
MOST = {"virtio-blk": MAX_DEVICES, "virtio-net": network.MAX_CARDS}
"""How many devices of each kind a machine may have."""
Option = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MAX_TABLES = 16 << 20
CARD = "vfio"
"""The kind of a device of the host, such as a GPU."""


class Machine(Section):
    """QEMU's machine type, and each option whose default depends on QEMU's version."""

    type: Annotated[
        str,
        StringConstraints(pattern=r"^pc-q35-[0-9a-z][0-9a-z.+-]*$", max_length=60),
        about("QEMU's machine type, with its version or its distribution's name.", "pc-q35-11.1", MACHINE),
    ]
    options: Annotated[
        dict[Option, Option],
        about("Each machine option whose default depends on QEMU's version.", "smm: off", MACHINE),
    ]


class CpuIdentity(Section):
    """The CPU identity in the guest's CPUID, so that firmware tables do not depend on the host's CPU."""

    model_name: Annotated[Option, about("QEMU's name of the CPU model.", "SapphireRapids", PROCESSORS)]
    vendor: Annotated[
        Literal["GenuineIntel", "AuthenticAMD"], about("The vendor that CPUID names.", "GenuineIntel", MACHINE)
    ]
    family: Annotated[int, about("The CPU's family.", 6, PROCESSORS, ge=0, le=255)]
    model: Annotated[int, about("The CPU's model.", 143, PROCESSORS, ge=0, le=255)]
    stepping: Annotated[int, about("The CPU's stepping.", 8, PROCESSORS, ge=0, le=15)]
    phys_bits: Annotated[
        int, about("Physical address bits, which determine the PCI window.", 46, MACHINE, ge=36, le=52)
    ]

    @property
    def argument(self) -> str:
        """QEMU's ``-cpu`` value."""
        return (
            # 1 GiB pages and phys-bits determine where the firmware puts its 64-bit PCI window.
            f"{self.model_name},vendor={self.vendor},family={self.family},model={self.model},"
            f"stepping={self.stepping},phys-bits={self.phys_bits},pdpe1gb=on"
        )


def _slot(value: str) -> str:
    device, _, function = value.partition(".")
    if len(device) != 2 or int(device, 16) > 31 or function != "0":
        raise ValueError(f"got `{value}`, expected a PCI slot from 00.0 to 1f.0")
    return value


def _bar(value: int) -> int:
    if value < 1 << 20 or value & (value - 1):
        raise ValueError(f"got `{value}`, expected a power of two from {1 << 20}")
    return value


class PlatformDevice(Section):
    """One device at a fixed PCI slot of the root bus."""

    kind: Annotated[
        Literal["virtio-blk", "virtio-net", "virtio-rng", "virtio-balloon", "virtio-serial", "vsock", "vfio"],
        about("The kind of device; vfio is a card of the host, such as a GPU.", "virtio-blk", MACHINE),
    ]
    slot: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{2}\.0$"),
        AfterValidator(_slot),
        about("Its PCI slot on the root bus, in quotes; for vfio that of its own root port.", "02.0", MACHINE),
    ]
    bootindex: Annotated[
        int | None,
        given("a number"),
        about("Its place in QEMU's boot order, which firmware measures.", 1, MACHINE, ge=0, le=255),
    ] = None
    bars: Annotated[
        list[Annotated[int, AfterValidator(_bar)]],
        about(
            "Of a vfio device: the sizes of its 64-bit prefetchable BARs in bytes.",
            137438953472,
            MACHINE,
            max_length=3,
        ),
        Field(default_factory=list),
    ]
    rom: Annotated[
        bool, about("Of a network card: it keeps QEMU's option ROM, which firmware ignores in a TD.", True)
    ] = False

    @model_validator(mode="after")
    def _fits(self) -> PlatformDevice:
        if (self.kind == CARD) != bool(self.bars):
            raise ValueError(
                f"bars: got {len(self.bars)} for {self.kind}, expected them for vfio, and for nothing else"
            )
        if self.rom and self.kind != "virtio-net":
            raise ValueError(f"rom: got `true` for {self.kind}, expected it only for virtio-net")
        return self


class Vmm(Section):
    """The virtual machine monitor, which generates the tables measured by firmware."""

    kind: Annotated[Literal["qemu"], about("The kind of virtual machine monitor.", "qemu", MACHINE)]
    version: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$"),
        about("Its exact version, from which the tables are read.", "11.1.2", MACHINE),
    ]
    package: Annotated[
        str | None,
        StringConstraints(pattern=r"^[ -~]{1,120}$"),
        given("a package"),
        about("The package that its binary says it is of.", "Debian 1:10.0.13+ds-0+deb13u1"),
    ] = None
    binary: Annotated[
        Sha256 | None,
        given("a SHA-256"),
        about("The SHA-256 of the binary that the tables are from.", "0" * 64),
    ] = None
    page_order: Annotated[
        Literal["single-pass", "two-pass"] | None,
        given("single-pass or two-pass"),
        about(
            "How it adds and measures the pages of a TD, which decides MRTD; without it both orders are accepted.",
            "single-pass",
            FIRMWARE,
        ),
    ] = None


class LearntTables(Section):
    """The tables that `platform learn` read, an object of the store and of pools."""

    sha256: Annotated[Sha256, about("The SHA-256 of the object.", "0" * 64, MACHINE)]
    size: Annotated[int, about("Its size in bytes.", 655360, ge=1, le=MAX_TABLES)]


NO_TEE = "none"
IRQCHIP = "kernel_irqchip"
SNP = "snp"
_OF_TDX = {MRTD: ("firmware",), RTMR0: ("tables", "booted-tables")}
# How each platform-dependent register of a TEE is determined; the others depend only on the image.
KNOWN_BY: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "tdx": _OF_TDX,
    SNP: {LAUNCH: ("firmware",)},
    NO_TEE: _OF_TDX,
}
_REGISTERS = tuple(dict.fromkeys(register for of_tee in KNOWN_BY.values() for register in of_tee))
_SNP_ACTIVE = 1


def _tee(value: str) -> str:
    return value if value == NO_TEE else tees.built(value)


class PlatformFile(Section):
    """One file of ``recipes/platforms``."""

    schema_: Annotated[Literal[2], Field(alias="schema"), about("The version of this format.", 2)]
    name: Annotated[Slug, about("The file's name without .yaml.", "qemu-11-q35")]
    description: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("A one-line description of the platform.", "QEMU 11.1 q35 as a TDX guest."),
    ]
    tee: Annotated[
        str,
        AfterValidator(_tee),
        about("The TEE of its guests; none is for development, with a software TPM.", "tdx", MACHINE),
        WithJsonSchema({"type": "string", "enum": [*tees.BUILT, NO_TEE]}),
    ]
    vmm: Annotated[Vmm, about("The virtual machine monitor.", moves=MACHINE)]
    machine: Annotated[Machine, about("QEMU's machine.", moves=MACHINE)]
    firmware: Annotated[
        Literal["image"],
        about("The firmware that starts the guest: image for the one built with the image.", "image", FIRMWARE),
    ]
    registers: Annotated[
        dict[str, str],
        about(
            "How platform-dependent registers are determined: mrtd, and launch of SNP guests, by firmware (its "
            "file); rtmr0 by tables (read from this VMM without a boot), or booted-tables if a real boot confirmed "
            "them.",
            "{mrtd: firmware, rtmr0: tables}",
            keys=_REGISTERS,
        ),
    ]
    identity: Annotated[CpuIdentity, about("The CPU identity in the guest's CPUID.", moves=MACHINE)]
    devices: Annotated[
        list[PlatformDevice],
        about(
            "The devices, each at its PCI slot.",
            '{kind: virtio-blk, slot: "02.0"}',
            MACHINE,
            min_length=1,
            max_length=MAX_DEVICES,
        ),
    ]
    max_vcpus: Annotated[
        int,
        about(
            f"The most virtual CPUs. Above {PLAIN_VCPUS}, interrupts reach them by extended destination ids, which "
            "QEMU offers a guest with the machine option kernel_irqchip: split.",
            512,
            ge=1,
            le=MAX_VCPUS,
        ),
    ] = PLAIN_VCPUS
    sev_features: Annotated[
        int,
        about(
            "Of an SNP guest: SEV_FEATURES of its vCPUs. Linux sets no other bit than 0 (SNP is active).",
            _SNP_ACTIVE,
            shown(LAUNCH),
            ge=1,
            le=(1 << 53) - 1,
        ),
    ] = _SNP_ACTIVE
    tpm: Annotated[bool, about("Whether there is a software TPM, for development only.", False, MACHINE)]
    cpus: Annotated[
        Literal["cores", "sockets"],
        about("Whether the virtual CPUs are the cores of one socket, or a socket each.", "sockets", MACHINE),
    ] = "cores"
    serial: Annotated[bool, about("Whether there is a serial port.", True, MACHINE)] = True
    uuid: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
        given("a UUID"),
        about(
            "The UUID in SMBIOS, which a UKI measures: only one machine has it.",
            "0f3c4a1e-0000-4000-8000-000000000001",
            MACHINE,
        ),
    ] = None
    boot: Annotated[
        dict[Option, Option],
        about("QEMU's -boot, which firmware measures as the boot order.", "{strict: on}", MACHINE, max_length=4),
        Field(default_factory=dict),
    ]
    globals: Annotated[
        dict[Option, Option],
        about("QEMU's -global for what the machine type has.", "{ICH9-LPC.disable_s3: 1}", MACHINE, max_length=8),
        Field(default_factory=dict),
    ]
    tables: Annotated[
        LearntTables | None,
        given("sha256 and size"),
        about("The tables of a learnt platform; its QEMU is then not needed to predict (ADR 0082).", moves=MACHINE),
    ] = None

    @property
    def cpu(self) -> str:
        """QEMU's ``-cpu`` value."""
        return self.identity.argument

    @property
    def against_disk_boot(self) -> str:
        """Why no boot from a disk can be predicted for it; empty if one can."""
        if self.tee not in tees.FROM_DISK:
            return f"`{self.name}` runs its guests in {self.tee}, expected {' or '.join(tees.FROM_DISK)}"
        if self.tables is not None:
            return f"the tables of `{self.name}` were learnt for a direct boot"
        # `strict` ends an order of boot devices, which there is none of without `-kernel` and `bootindex`.
        if self.boot.keys() - {"strict"} or any(device.bootindex is not None for device in self.devices):
            return f"`{self.name}` gives QEMU a boot order (`boot`, `bootindex`), by which firmware sorts its options"
        return ""

    @field_validator("registers")
    @classmethod
    def _known(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        known_by = KNOWN_BY.get(info.data.get("tee", ""))
        if known_by is None:  # what is wrong with the TEE was said
            return value
        if set(value) != set(known_by):
            raise ValueError(f"got {', '.join(sorted(value)) or 'nothing'}, expected {' and '.join(known_by)}")
        for register, known in value.items():
            if known not in known_by[register]:
                raise ValueError(f"{register}: got `{known}`, expected {' or '.join(known_by[register])}")
        return value

    @field_validator("identity")
    @classmethod
    def _identified(cls, value: CpuIdentity, info: ValidationInfo) -> CpuIdentity:
        if info.data.get("tee") != SNP:
            return value
        known = processors.identity_of(value.model_name)
        if known is None:
            expected = f"expected {' or '.join(processors.EPYC)}, whose identity in CPUID is measured"
            raise RuleBroken("platform-processor", f"model_name: got `{value.model_name}`, {expected}")
        wanted = {"vendor": "AuthenticAMD", **known._asdict()}
        for name, expected in wanted.items():
            if (got := getattr(value, name)) != expected:
                raise RuleBroken("platform-processor", f"{name}: got `{got}`, expected {expected}, as in CPUID")
        return value

    @field_validator("sev_features")
    @classmethod
    def _active(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("tee") != SNP and value != _SNP_ACTIVE:
            raise ValueError(f"got `{value}` for a machine that is no SNP guest, expected it to be left out")
        if not value & _SNP_ACTIVE:
            raise ValueError(f"got `{value}`, expected a number with bit 0, by which a guest is one of SNP")
        return value

    @field_validator("tpm")
    @classmethod
    def _measured(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("tee") == NO_TEE:
            raise RuleBroken(
                "platform-unmeasured",
                "got `false` with `tee: none`: such a machine has no measurements, expected true",
            )
        return value

    @field_validator("max_vcpus")
    @classmethod
    def _reached(cls, value: int, info: ValidationInfo) -> int:
        machine = info.data.get("machine")
        if machine is not None and value > PLAIN_VCPUS and machine.options.get(IRQCHIP) != "split":
            has = machine.options.get(IRQCHIP, "nothing")
            text = f"got `{value}` with {has} in machine.options.{IRQCHIP}, expected `split` or at most {PLAIN_VCPUS}"
            raise RuleBroken("platform-vcpus", text)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> PlatformFile:
        for kind, most in MOST.items():
            count = sum(device.kind == kind for device in self.devices)
            if count > most:
                raise ValueError(f"devices: got {count} {kind}, expected at most {most}")
        slots = [device.slot for device in self.devices]
        for slot in slots:
            if slots.count(slot) > 1:
                raise ValueError(f"two devices at slot {slot}")
        return self
