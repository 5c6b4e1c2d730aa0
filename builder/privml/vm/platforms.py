"""From a recipe's platform file to the machine room's record."""

from __future__ import annotations

from pathlib import Path

from privml.machine.platform import Device, Platform
from privml.recipe.loader import load_platform


def platform(name: str, directory: Path) -> Platform:
    """The platform ``name`` of the recipes in ``directory``."""
    file = load_platform(name, directory)
    return Platform(
        name=file.name,
        qemu=file.qemu,
        machine=file.machine.type,
        options=tuple(sorted(file.machine.options.items())),
        cpu=file.cpu,
        vendor=file.identity.vendor,
        phys_bits=file.identity.phys_bits,
        devices=tuple(Device(device.kind, int(device.slot.split(".")[0], 16)) for device in file.devices),
        tpm=file.tpm,
    )
