"""The boot options that generic OVMF makes for itself, and measures as BootOrder and Boot####.

A direct kernel boot runs before disks and network cards are looked for, so only the built-in applications are there.
Source: edk2 OvmfPkg/Library/PlatformBootManagerLib, MdeModulePkg/Library/UefiBootManagerLib; UEFI 2.10 section 3.1.3.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

_ACTIVE = 0x001
_CATEGORY_APP = 0x100
_HIDDEN = 0x008
_VOLUME = uuid.UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")


@dataclass(frozen=True)
class BootOption:
    """A load option that starts ``file``, an application in the firmware's own volume."""

    attributes: int
    description: str
    file: uuid.UUID

    def encoded(self) -> bytes:
        """EFI_LOAD_OPTION: attributes, length of the path, description, device path Fv/FvFile/End."""
        path = b"\x04\x07\x14\x00" + _VOLUME.bytes_le + b"\x04\x06\x14\x00" + self.file.bytes_le + b"\x7f\xff\x04\x00"
        head = self.attributes.to_bytes(4, "little") + len(path).to_bytes(2, "little")
        return head + self.description.encode("utf-16-le") + b"\0\0" + path


BOOT_MANAGER_MENU = BootOption(
    _ACTIVE | _HIDDEN | _CATEGORY_APP, "BootManagerMenuApp", uuid.UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
)
UI_APP = BootOption(_ACTIVE | _HIDDEN | _CATEGORY_APP, "UiApp", uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331"))
FIRMWARE_SETUP = BootOption(
    _ACTIVE | _CATEGORY_APP, "EFI Firmware Setup", uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331")
)


def boot_variables(options: tuple[BootOption, ...]) -> tuple[tuple[str, bytes], ...]:
    """(name, data) of BootOrder and of each Boot####, in the order of measurement; nothing without options."""
    if not options:
        return ()
    order = b"".join(number.to_bytes(2, "little") for number in range(len(options)))
    return (("BootOrder", order), *((f"Boot{number:04X}", one.encoded()) for number, one in enumerate(options)))
