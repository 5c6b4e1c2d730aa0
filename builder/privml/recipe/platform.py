"""Platforms: the virtual machine for which measurements are predicted, pinned down to slots and CPU identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from privml.recipe.models import Section, Slug

Option = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]


class Machine(Section):
    """QEMU's machine type, and each option that would otherwise take a default of its version."""

    type: Annotated[str, StringConstraints(pattern=r"^pc-q35-[0-9]+\.[0-9]+$")]
    options: dict[Option, Option]


class CpuIdentity(Section):
    """What the guest's CPUID says it is, so that firmware tables do not depend on the host's CPU."""

    model_name: Option
    vendor: Literal["GenuineIntel", "AuthenticAMD"]
    family: Annotated[int, Field(ge=0, le=255)]
    model: Annotated[int, Field(ge=0, le=255)]
    stepping: Annotated[int, Field(ge=0, le=15)]
    phys_bits: Annotated[int, Field(ge=36, le=52)]

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

    kind: Literal["virtio-blk", "virtio-net"]
    slot: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}\.0$"), AfterValidator(_slot)]


class PlatformFile(Section):
    """One file of ``recipes/platforms``. ``accel`` is what a production guest runs under, elsewhere it is said."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Slug
    description: Annotated[str, StringConstraints(min_length=1, max_length=400)]
    qemu: Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    machine: Machine
    accel: Literal["tdx", "tcg"]
    identity: CpuIdentity
    devices: Annotated[list[PlatformDevice], Field(min_length=1, max_length=28)]
    tpm: bool

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
