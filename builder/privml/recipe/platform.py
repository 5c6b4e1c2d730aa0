"""Platforms: the virtual machine for which measurements are predicted, pinned down to slots and CPU identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from privml.recipe.models import Section, Slug, about

RTMR0 = ("RTMR0",)

Option = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]


class Machine(Section):
    """QEMU's machine type, and each option that would otherwise take a default of its version."""

    type: Annotated[
        str,
        StringConstraints(pattern=r"^pc-q35-[0-9]+\.[0-9]+$"),
        about("QEMU's machine type, with its version.", "pc-q35-11.1", RTMR0),
    ]
    options: Annotated[
        dict[Option, Option],
        about("Each machine option that would otherwise take a default of QEMU's version.", "smm: off", RTMR0),
    ]


class CpuIdentity(Section):
    """What the guest's CPUID says it is, so that firmware tables do not depend on the host's CPU."""

    model_name: Annotated[Option, about("QEMU's name of the CPU model.", "SapphireRapids", RTMR0)]
    vendor: Annotated[
        Literal["GenuineIntel", "AuthenticAMD"], about("The vendor that CPUID names.", "GenuineIntel", RTMR0)
    ]
    family: Annotated[int, about("The CPU's family.", 6, RTMR0, ge=0, le=255)]
    model: Annotated[int, about("The CPU's model.", 143, RTMR0, ge=0, le=255)]
    stepping: Annotated[int, about("The CPU's stepping.", 8, RTMR0, ge=0, le=15)]
    phys_bits: Annotated[
        int, about("Physical address bits; with them the PCI window moves.", 46, RTMR0, ge=36, le=52)
    ]

    @property
    def argument(self) -> str:
        """QEMU's ``-cpu`` value."""
        return (
            # 1 GiB pages decide, with phys-bits, where the firmware puts its 64-bit PCI window.
            f"{self.model_name},vendor={self.vendor},family={self.family},model={self.model},"
            f"stepping={self.stepping},phys-bits={self.phys_bits},pdpe1gb=on"
        )


def _slot(value: str) -> str:
    device, _, function = value.partition(".")
    if len(device) != 2 or int(device, 16) > 31 or function != "0":
        raise ValueError(f"got `{value}`, expected a PCI slot from 00.0 to 1f.0")
    return value


class PlatformDevice(Section):
    """One device at a fixed PCI slot of the root bus."""

    kind: Annotated[Literal["virtio-blk", "virtio-net"], about("The kind of device.", "virtio-blk", RTMR0)]
    slot: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{2}\.0$"),
        AfterValidator(_slot),
        about("Its PCI slot on the root bus, in quotes.", "02.0", RTMR0),
    ]


class PlatformFile(Section):
    """One file of ``recipes/platforms``. ``accel`` is what a production guest runs under, elsewhere it is said."""

    schema_: Annotated[Literal[1], Field(alias="schema"), about("The version of this format.", 1)]
    name: Annotated[Slug, about("The file's name without .yaml.", "qemu-11-q35")]
    description: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("A sentence for those who choose among platforms.", "QEMU 11.1 q35 as a TDX guest."),
    ]
    qemu: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$"),
        about("QEMU's version; its tables are taken from exactly that one.", "11.1.2", RTMR0),
    ]
    machine: Annotated[Machine, about("QEMU's machine.", moves=RTMR0)]
    accel: Annotated[
        Literal["tdx", "tcg"],
        about("What a guest of this platform runs under: tdx, or tcg (simulation).", "tdx", RTMR0),
    ]
    identity: Annotated[CpuIdentity, about("What the guest's CPUID says it is.", moves=RTMR0)]
    devices: Annotated[
        list[PlatformDevice],
        about(
            "The devices, each at its PCI slot.",
            '{kind: virtio-blk, slot: "02.0"}',
            RTMR0,
            min_length=1,
            max_length=28,
        ),
    ]
    tpm: Annotated[bool, about("Whether there is a software TPM, for development only.", False, RTMR0)]

    @property
    def cpu(self) -> str:
        """QEMU's ``-cpu`` value."""
        return self.identity.argument

    @model_validator(mode="after")
    def _slots_once(self) -> PlatformFile:
        slots = [device.slot for device in self.devices]
        for slot in slots:
            if slots.count(slot) > 1:
                raise ValueError(f"two devices at slot {slot}")
        return self
