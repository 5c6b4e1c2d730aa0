"""Convert a recipe's platform file to the record of the `machine` package."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import UsageError
from privml.events.registers import RTMR0
from privml.evidence.tdx.claims import TEE
from privml.machine.platform import MEMORY, Device, Platform, Tables
from privml.measure.snp.vmsa import cpu_signature
from privml.output.manifest import Manifest
from privml.recipe.loader import load_platform
from privml.recipe.platform import CARD, NO_TEE, SNP, PlatformDevice, PlatformFile


def platform(name: str, directory: Path) -> Platform:
    """The platform ``name`` of the recipes in ``directory``."""
    return record(load_platform(name, directory))


def place_of(name: str, directory: Path) -> Path:
    """The folder whose platform ``name`` is meant: ``recipes`` here, else ``directory``."""
    here = Path("recipes")
    return here if (here / "platforms" / f"{name}.yaml").is_file() else directory


def platform_named(name: str, directory: Path, manifest: Manifest) -> Platform:
    """The platform ``name`` of ``recipes`` here, else of ``directory``.

    ``UsageError`` if it lacks disks, or the image boots from its disk and that is not predicted for it.
    """
    file = load_platform(name, place_of(name, directory))
    found = record(file)
    if manifest.boot_disk is not None and (against := file.against_disk_boot):
        raise UsageError(
            f"{manifest.name} boots from its disk, and that is not predicted: {against}",
            hint="name a platform without that, or build the image with `boot: direct`",
        )
    disks = sum(device.kind == "virtio-blk" for device in found.devices)
    if disks < len(manifest.disks):
        raise UsageError(
            f"platform {name} has {disks} disks, but the image has {len(manifest.disks)} volumes",
            hint="name or learn a machine with a disk for each",
        )
    return found


def startable(directory: Path, manifest: Manifest) -> Platform:
    """The first platform of ``manifest`` whose machine can be started here; ``UsageError`` if there is none.

    ``MeasurementError`` if the image has no firmware for it.

    The firmware of an SNP guest starts nothing without the kernel hashes that its VMM puts into the guest's memory,
    and QEMU does so for a real SNP guest only.
    """
    own = [platform(name, directory) for name in manifest.platforms]
    found = next((one for one in own if one.tee != SNP), None)
    if found is None:
        raise UsageError(
            f"{manifest.name} is for SNP guests only ({', '.join(manifest.platforms)}), and none can be started here",
            hint="a development image with a platform of TDX can be tried anywhere",
        )
    manifest.firmware_for(found.tee)
    return found


def td_platform(name: str | None, directory: Path, manifest: Manifest) -> Platform:
    """The platform ``name``, else the first of ``manifest`` that is one of TDs; ``UsageError`` if it is not one."""
    if name is None:
        own = [platform(one, directory) for one in manifest.platforms]
        found = next((one for one in own if one.tee == TEE), own[0])
    else:
        found = platform_named(name, directory, manifest)
    if found.tee != TEE:
        raise UsageError(f"platform {found.name} is not one of TDs", hint="name another with --platform")
    return found


def record(file: PlatformFile) -> Platform:
    """The record of a platform file."""
    cpu = file.identity
    return Platform(
        name=file.name,
        qemu=file.vmm.version,
        machine=file.machine.type,
        options=tuple(sorted(file.machine.options.items())),
        cpu=file.cpu,
        vendor=file.identity.vendor,
        phys_bits=file.identity.phys_bits,
        devices=tuple(_device(device) for device in file.devices),
        tpm=file.tpm,
        tee=None if file.tee == NO_TEE else file.tee,
        max_vcpus=file.max_vcpus,
        booted=file.registers.get(RTMR0) == "booted-tables",
        page_order=file.vmm.page_order,
        sockets=file.cpus == "sockets",
        serial=file.serial,
        uuid=file.uuid,
        boot=tuple(sorted(file.boot.items())),
        globals=tuple(sorted(file.globals.items())),
        tables=None if file.tables is None else Tables(file.tables.sha256, file.tables.size),
        binary=file.vmm.binary,
        cpu_signature=cpu_signature(cpu.family, cpu.model, cpu.stepping) if file.tee == SNP else None,
        sev_features=file.sev_features,
    )


def _device(device: PlatformDevice) -> Device:
    card = device.kind == CARD
    return Device(
        MEMORY if card else device.kind,
        int(device.slot.split(".")[0], 16),
        bars=tuple(device.bars),
        port=card,
        rom=device.rom,
        bootindex=device.bootindex,
    )
