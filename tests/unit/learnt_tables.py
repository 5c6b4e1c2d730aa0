"""Tables as a QEMU could generate them, for any size: a stand-in for reading them from one."""

from __future__ import annotations

import struct

from privml.machine.platform import Size
from privml.measure import acpi, smbios

_PADDED = 8192


def _table(name: str, body: bytes) -> bytes:
    return struct.pack("<4sI", name.encode(), 36 + len(body)) + bytes(28) + body


def generated(size: Size, *, salt: bytes = b"") -> dict[str, bytes]:
    """fw_cfg files in which vCPUs and memory move bytes, and memory adds an SMBIOS structure for each 16 GiB."""
    cpus = b"".join(b"CPU" + number.to_bytes(2, "little") for number in range(size.vcpus))
    low = min(size.memory, 2 << 30)
    dsdt = _table(
        "DSDT", b"head" + len(cpus).to_bytes(4, "little") + cpus + b"_CRS" + struct.pack("<Q", low) + b"end" + salt
    )
    blob = b"".join((dsdt, _table("FACP", bytes(112)), _table("APIC", cpus)))
    offsets = [table.start for table in acpi.tables(blob) if table.name != "DSDT"]
    blob += _table("RSDT", b"".join(struct.pack("<I", offset) for offset in offsets))
    files = acpi.derived(blob.ljust(_PADDED, b"\0"))
    modules = b"".join(
        struct.pack("<BBHQ", 17, 12, 0x1100 + number, size.memory) + b"\0\0"
        for number in range(1 + size.memory // (16 << 30))
    )
    processor = struct.pack("<BBHB", 4, 5, 0x400, size.vcpus % 256) + b"QEMU\0\0"
    return {
        **files,
        smbios.TABLES: processor + modules + bytes.fromhex("7f04fffe0000"),
        "BootMenu": b"\0\0",
        "bootorder": b"/rom\0",
        "etc/e820": struct.pack("<QQI", 0, size.memory, 1),
    }
