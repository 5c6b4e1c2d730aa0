"""Convert a recipe's platform file to the record of the `machine` package."""

from __future__ import annotations

from pathlib import Path

from privml.events.registers import RTMR0
from privml.machine.platform import Device, Platform
from privml.recipe.loader import load_platform
from privml.recipe.platform import NO_TEE


def platform(name: str, directory: Path) -> Platform:
    """The platform ``name`` of the recipes in ``directory``."""
    file = load_platform(name, directory)
    return Platform(
        name=file.name,
        qemu=file.vmm.version,
        machine=file.machine.type,
        options=tuple(sorted(file.machine.options.items())),
        cpu=file.cpu,
        vendor=file.identity.vendor,
        phys_bits=file.identity.phys_bits,
        devices=tuple(Device(device.kind, int(device.slot.split(".")[0], 16)) for device in file.devices),
        tpm=file.tpm,
        tee=None if file.tee == NO_TEE else file.tee,
        max_vcpus=file.max_vcpus,
        booted=file.registers[RTMR0] == "booted-tables",
    )
