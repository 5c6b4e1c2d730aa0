"""The boot options that firmware generates and measures as BootOrder and Boot####.

A direct kernel boot runs before disks and network cards are looked for, so only the built-in applications are there.
A boot from a disk comes after: then each disk has an option, each network card one for every way to boot from it,
in the order of their slots. Seen in software-TPM boots with up to three disks and two cards.
Source: edk2 OvmfPkg/Library/PlatformBootManagerLib, MdeModulePkg/Library/UefiBootManagerLib (BmBoot.c
BmEnumerateBootOptions, BmBootDescription.c); UEFI 2.10 sections 3.1.3 and 10.3.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from privml.machine.platform import Device, mac_addresses

_ACTIVE = 0x001
_CATEGORY_APP = 0x100
_HIDDEN = 0x008
_VOLUME = uuid.UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_MADE_BY_FIRMWARE = uuid.UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2").bytes_le
_END = b"\x7f\xff\x04\x00"
_FROM_VOLUME = b"\x04\x07\x14\x00"
_PCI_ROOT = b"\x02\x01\x0c\x00\xd0\x41\x03\x0a\0\0\0\0"
_ETHERNET = b"\x01"
_IPV4 = b"\x03\x0c\x1b\x00" + bytes(23)
_IPV6 = b"\x03\x0d\x3c\x00" + bytes(39) + b"\x40" + bytes(16)
_URI = b"\x03\x18\x04\x00"
# The ways to boot from a network card, in the order in which their drivers offer them.
_WAYS = (("PXEv4", _IPV4), ("PXEv6", _IPV6), ("HTTPv4", _IPV4 + _URI), ("HTTPv6", _IPV6 + _URI))


class LoadOption(Protocol):
    """Anything that is measured as a Boot#### variable."""

    def encoded(self) -> bytes:
        """EFI_LOAD_OPTION: attributes, length of the path, description, device path, optional data."""


@dataclass(frozen=True)
class BootOption:
    """A load option that starts ``file``, an application in the firmware's own volume."""

    attributes: int
    description: str
    file: uuid.UUID

    def encoded(self) -> bytes:
        """EFI_LOAD_OPTION with the device path Fv/FvFile."""
        path = _FROM_VOLUME + _VOLUME.bytes_le + b"\x04\x06\x14\x00" + self.file.bytes_le
        return _load_option(self.attributes, self.description, path)


@dataclass(frozen=True)
class DeviceOption:
    """A load option that firmware generated for a device; ``path`` is its device path without the end."""

    description: str
    path: bytes

    def encoded(self) -> bytes:
        """EFI_LOAD_OPTION with the optional data by which firmware recognises its own options."""
        return _load_option(_ACTIVE, self.description, self.path) + _MADE_BY_FIRMWARE


def _load_option(attributes: int, description: str, path: bytes) -> bytes:
    head = attributes.to_bytes(4, "little") + (len(path) + len(_END)).to_bytes(2, "little")
    return head + description.encode("utf-16-le") + b"\0\0" + path + _END


def is_of_firmware(option: bytes) -> bool:
    """True if an EFI_LOAD_OPTION is one that firmware makes by itself: for a device, or for an own application.

    An installed system adds others, which name a file on its disk.
    """
    length = int.from_bytes(option[4:6], "little")
    name = next((at for at in range(6, len(option) - 1, 2) if option[at : at + 2] == b"\0\0"), len(option))
    path, rest = option[name + 2 :][:length], option[name + 2 + length :]
    return rest == _MADE_BY_FIRMWARE or (path[:4] == _FROM_VOLUME and not rest)


BOOT_MANAGER_MENU = BootOption(
    _ACTIVE | _HIDDEN | _CATEGORY_APP, "BootManagerMenuApp", uuid.UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
)
UI_APP = BootOption(_ACTIVE | _HIDDEN | _CATEGORY_APP, "UiApp", uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331"))
FIRMWARE_SETUP = BootOption(
    _ACTIVE | _CATEGORY_APP, "EFI Firmware Setup", uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331")
)
SHELL = BootOption(_ACTIVE | _CATEGORY_APP, "EFI Internal Shell", uuid.UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1"))


def found(devices: Iterable[Device], *, network: bool) -> tuple[DeviceOption, ...]:
    """The options of a machine's virtio disks and network cards; ``network``: the firmware can boot from a network.

    Firmware numbers options of one description from the second on.
    """
    ordered = sorted(devices, key=lambda one: one.slot)
    disks = [one for one in ordered if one.kind == "virtio-blk"]
    options = [
        DeviceOption("UEFI Misc Device" + (f" {number}" if number > 1 else ""), _pci(disk))
        for number, disk in enumerate(disks, 1)
    ]
    if network:
        for card, address in mac_addresses(ordered).items():
            node = b"\x03\x0b\x25\x00" + address.ljust(32, b"\0") + _ETHERNET
            options += [
                DeviceOption(f"UEFI {way} (MAC:{address.hex().upper()})", _pci(card) + node + path)
                for way, path in _WAYS
            ]
    return tuple(options)


def _pci(device: Device) -> bytes:
    return _PCI_ROOT + b"\x01\x01\x06\x00\x00" + bytes([device.slot])


def boot_variables(options: Sequence[LoadOption]) -> tuple[tuple[str, bytes], ...]:
    """(name, data) of BootOrder and of each Boot####, in the order of measurement; nothing without options."""
    if not options:
        return ()
    order = b"".join(number.to_bytes(2, "little") for number in range(len(options)))
    return (("BootOrder", order), *((f"Boot{number:04X}", one.encoded()) for number, one in enumerate(options)))
