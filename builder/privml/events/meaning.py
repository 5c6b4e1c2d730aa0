"""What a record of a boot log is about: the input that was measured, and who measured it.

The record's type and data decide, and both are only what the log says. Sources: Linux
drivers/firmware/efi/libstub/efistub.h (tags); systemd src/boot/tpm2-pcr.h, src/fundamental/uki.c; edk2
OvmfPkg/IntelTdx/TdxHelperLib, OvmfPkg/Library/AcpiPlatformLib, MdeModulePkg/Universal/SmbiosMeasurementDxe.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from privml.events import types
from privml.events.tcg import LogEntry

_TAG = struct.Struct("<II")


@dataclass(frozen=True)
class Meaning:
    """``id`` is a word for programs, ``what`` was measured, and ``by`` whom; empty when the type says it."""

    id: str
    what: str
    by: str = ""

    @property
    def text(self) -> str:
        """``the initrd, by the kernel's EFI stub``."""
        return f"{self.what}, by {self.by}" if self.by else self.what


_STUB = "systemd-stub"
TAGS = {
    0x8F3B22ED: Meaning("command-line", "the kernel command line", "its EFI stub"),
    0x8F3B22EC: Meaning("initrd", "the initrd", "the kernel's EFI stub"),
    0xF5BC582A: Meaning("loader-conf", "loader.conf", "systemd-boot"),
    0x6C46F751: Meaning("addon", "a devicetree addon", _STUB),
    0x49DFFE0F: Meaning("addon", "an initrd addon", _STUB),
    0xDAC08E1A: Meaning("addon", "a microcode addon", _STUB),
    0x13AED6DB: Meaning("uki-profile", "the number of the UKI's profile that was chosen", _STUB),
    0xD5CB7CBC: Meaning("smbios-type", "SMBIOS type 1 (system: serial number and UUID)", _STUB),
    0xE0D47BC8: Meaning("smbios-type", "SMBIOS type 2 (board: serial number)", _STUB),
    0xC0B3BD23: Meaning("smbios-type", "SMBIOS type 11 (OEM strings of the host's choice)", _STUB),
    0x4141454C: Meaning("agent-event", "a run-time event", "the attestation agent"),
}
"""The known tags of EV_EVENT_TAG records."""

_BY_TYPE = {
    types.EV_EFI_GPT_EVENT: Meaning("partition-table", "the partition table (GPT) of the boot disk"),
    types.EV_EFI_BOOT_SERVICES_APPLICATION: Meaning("image", "an EFI image: a boot loader, kernel or UKI"),
    types.EV_EFI_BOOT_SERVICES_DRIVER: Meaning("driver", "an EFI driver, as of a card's option ROM"),
    types.EV_EFI_RUNTIME_SERVICES_DRIVER: Meaning("driver", "an EFI driver, as of a card's option ROM"),
    types.EV_EFI_VARIABLE_BOOT: Meaning("boot-options", "the boot options that firmware made for the machine"),
    types.EV_EFI_VARIABLE_BOOT2: Meaning("boot-options", "the boot options that firmware made for the machine"),
    types.EV_EFI_VARIABLE_DRIVER_CONFIG: Meaning("variables", "a Secure Boot variable of the firmware"),
    types.EV_EFI_VARIABLE_AUTHORITY: Meaning("authority", "what an image was checked with"),
    types.EV_S_CRTM_VERSION: Meaning("firmware-version", "the firmware's version"),
    types.DSTACK_RUNTIME_EVENT: Meaning("runtime-event", "a run-time event of dstack"),
}
_TD_HOB = Meaning("memory-layout", "the memory layout (TD HOB)", "the TD's firmware")
_CFV = Meaning("variable-volume", "the volume of the firmware's variables (CFV)", "the TD's firmware")
_VOLUME = Meaning("firmware-volume", "a volume of the firmware")
_ACPI = Meaning("acpi-tables", "one of QEMU's ACPI files (table loader, RSDP or tables)", "firmware")
_FW_CFG = Meaning("fw-cfg", "a fw_cfg item of QEMU")
_SMBIOS = Meaning("smbios-table", "the SMBIOS table", "firmware")
_HANDOFF = Meaning("handoff-table", "a table that firmware hands over")
_VARIABLES_VOLUME = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_SMBIOS_TABLES = tuple(
    uuid.UUID(text).bytes_le
    for text in ("f2fd1544-9794-4a2c-992e-e5bbcf20e394", "eb9d2d31-2d88-11d3-9a16-0090273fc14d")
)
_LINUX_SECTION = (b".linux", ".linux".encode("utf-16-le").rstrip(b"\0"))
_EXIT = Meaning("exit-boot-services", "a call of ExitBootServices, which the kernel repeats when it fails")


def meaning(entry: LogEntry) -> Meaning | None:
    """What ``entry`` is about; None when nothing is known of such a record."""
    if entry.type == types.EV_EVENT_TAG:
        number, _ = tagged(entry.data)
        return TAGS.get(number) if number is not None else None
    if entry.type in (types.EV_EFI_PLATFORM_FIRMWARE_BLOB, types.EV_EFI_PLATFORM_FIRMWARE_BLOB2):
        return _CFV if str(_VARIABLES_VOLUME).upper().encode() in entry.data.upper() else _VOLUME
    if entry.type in (types.EV_EFI_HANDOFF_TABLES, types.EV_EFI_HANDOFF_TABLES2):
        if entry.data[1:9] == b"TdxTable":
            return _TD_HOB
        return _SMBIOS if any(one in entry.data for one in _SMBIOS_TABLES) else _HANDOFF
    if entry.type == types.EV_PLATFORM_CONFIG_FLAGS:
        if entry.data.startswith(b"ACPI DATA"):
            return _ACPI
        return _FW_CFG if entry.data.startswith(b"QEMU FW CFG\0") else None
    if entry.type == types.EV_EFI_ACTION and entry.data.startswith(b"Exit Boot Services"):
        return _EXIT
    return _BY_TYPE.get(entry.type)


def shows_uki(entries: Iterable[LogEntry]) -> bool:
    """True when a log has the name of the .linux section, which systemd-stub measures of every UKI."""
    return any(entry.type == types.EV_IPL and entry.data.rstrip(b"\0") in _LINUX_SECTION for entry in entries)


def tagged(data: bytes) -> tuple[int | None, bytes]:
    """An EV_EVENT_TAG's number and what follows; None and all of the data when the lengths do not fit."""
    if len(data) >= _TAG.size:
        number, size = _TAG.unpack_from(data)
        if len(data) >= _TAG.size + size:
            return number, data[_TAG.size : _TAG.size + size]
    return None, data


# --- certificates ---------------------------------------------------------------------------------------------------

_SEQUENCE, _VERSION = 0x30, 0xA0
_COMMON_NAME = bytes.fromhex("0603550403")


def certificate_name(der: bytes) -> str | None:
    """The common name of the subject of an X.509 certificate; None when ``der`` is none, or has none."""
    certificate = _value(der, 0, _SEQUENCE)
    body = None if certificate is None else _value(certificate[0], 0, _SEQUENCE)
    if body is None:
        return None
    fields, at = body[0], 0
    if fields[:1] == bytes([_VERSION]):
        version = _value(fields, 0, _VERSION)
        at = version[1] if version is not None else 0
    subject = b""
    for _ in range(5):  # serial number, algorithm, issuer, validity, subject
        found = _value(fields, at, fields[at] if at < len(fields) else 0)
        if found is None:
            return None
        subject, at = found
    start = subject.find(_COMMON_NAME)
    if start < 0:
        return None
    start += len(_COMMON_NAME)
    name = _value(subject, start, subject[start] if start < len(subject) else 0)
    try:
        text = name[0].decode("utf-8") if name is not None else ""
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None


def _value(data: bytes, at: int, tag: int) -> tuple[bytes, int] | None:
    """The content of the DER value at ``at`` and where it ends; None when it is cut off or has another tag."""
    if at + 2 > len(data) or data[at] != tag:
        return None
    size, start = data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
        if not 1 <= count <= 4:
            return None
    return (data[start : start + size], start + size) if start + size <= len(data) else None
