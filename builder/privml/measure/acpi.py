"""The fw_cfg blobs that OVMF measures as "ACPI DATA", in the order of the loader script's ALLOCATE commands.

Source: edk2 OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c (commit 935343cf16): the script itself is measured
first, then each file as it is downloaded, before any pointer or checksum is patched. The script and the RSDP follow
from plain tables (QEMU hw/i386/acpi-build.c, hw/acpi/bios-linker-loader.c): checked against a hardware log's digests.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece

TABLE_LOADER = "etc/table-loader"
TABLES = "etc/acpi/tables"
RSDP = "etc/acpi/rsdp"
_COMMAND = 128
_ALLOCATE = 1
_KNOWN = range(1, 5)  # allocate, add pointer, add checksum, write pointer
_MAX_BYTES = 1 << 20


def allocated_files(loader: bytes) -> tuple[str, ...]:
    """The files that the script's ALLOCATE commands load, in order; ``MeasurementError`` for a malformed script."""
    if len(loader) % _COMMAND or len(loader) > _MAX_BYTES:
        raise MeasurementError(f"{TABLE_LOADER}: {len(loader)} bytes, expected a multiple of {_COMMAND}")
    names: list[str] = []
    for offset in range(0, len(loader), _COMMAND):
        command = int.from_bytes(piece(loader, offset, 4, TABLE_LOADER), "little")
        if command == _ALLOCATE:
            names.append(_name(loader[offset + 4 : offset + 60]))
        elif command not in _KNOWN and any(loader[offset : offset + _COMMAND]):
            raise MeasurementError(f"{TABLE_LOADER}: unknown command {command} at byte {offset}")
    if len(set(names)) != len(names):
        raise MeasurementError(f"{TABLE_LOADER}: a file is allocated twice")
    return tuple(names)


def _name(field: bytes) -> str:
    name, end, _ = field.partition(b"\0")
    if not end or not name or not name.isascii():
        raise MeasurementError(f"{TABLE_LOADER}: bad file name {field[:20]!r}")
    return name.decode("ascii")


@dataclass(frozen=True)
class Table:
    """One ACPI table in the blob: four-letter ``name``, where it begins, and its length."""

    name: str
    start: int
    length: int


def tables(blob: bytes) -> tuple[Table, ...]:
    """The tables of an ``etc/acpi/tables`` blob in order; ``MeasurementError`` when it is not one or is malformed.

    Zeros may fill it up behind the last table (QEMU pads it to a power of two).
    """
    if len(blob) > 16 * _MAX_BYTES:
        raise MeasurementError(f"{TABLES}: {len(blob)} bytes, expected at most {16 * _MAX_BYTES}")
    found: list[Table] = []
    at = 0
    while at < len(blob) and blob[at : at + 4].strip(b"\0"):
        name, length = blob[at : at + 4], int.from_bytes(piece(blob, at + 4, 4, TABLES), "little")
        if not name.isalnum() or not name.isascii() or name.upper() != name:
            raise MeasurementError(f"{TABLES}: {name!r} at byte {at} is not a table's name")
        piece(blob, at, length, f"{TABLES} {name.decode()}")
        if length < _TABLE_HEADER:
            raise MeasurementError(f"{TABLES}: {name.decode()} says that it is {length} bytes long")
        found.append(Table(name.decode(), at, length))
        at += length
    if blob[at:].strip(b"\0"):
        raise MeasurementError(f"{TABLES}: unexplained bytes behind the table that ends at {at}")
    return tuple(found)


_TABLE_HEADER = 36
_NO_CHECKSUM = ("FACS", "DSDT", "RSDT", "FACP")
_OWN_COMMANDS = ("TPM2", "NFIT", "BGRT", "XSDT")


def derived(blob: bytes) -> dict[str, bytes]:
    """``etc/table-loader`` and ``etc/acpi/rsdp`` as QEMU writes them for the tables of ``blob``, and ``blob`` itself.

    ``MeasurementError`` for tables that come with loader commands of their own (a TPM's, NVDIMMs, a generation ID).
    """
    found = tables(blob)
    by_name = {table.name: table for table in found}
    for name in ("DSDT", "FACP", "RSDT"):
        if name not in by_name:
            raise MeasurementError(f"{TABLES}: no {name} table")
    own = [table.name for table in found if table.name in _OWN_COMMANDS]
    if own or len([table for table in found if table.name == "SSDT"]):
        raise MeasurementError(
            f"{TABLES}: {(own or ['SSDT'])[0]} has loader commands of its own: give etc/table-loader too"
        )
    facp, rsdt = by_name["FACP"], by_name["RSDT"]
    if facp.length < 148 or (rsdt.length - _TABLE_HEADER) % 4:
        raise MeasurementError(f"{TABLES}: FACP of {facp.length} or RSDT of {rsdt.length} bytes is malformed")
    script = [_allocate(RSDP, 16, 2), _allocate(TABLES, 64, 1), _table_checksum(by_name["DSDT"])]
    script += [_pointer(TABLES, facp.start + at, size) for at, size in ((36, 4), (40, 4), (140, 8))]
    script.append(_table_checksum(facp))
    script += [_table_checksum(table) for table in found if table.name not in _NO_CHECKSUM]
    script += [_pointer(TABLES, rsdt.start + at, 4) for at in range(_TABLE_HEADER, rsdt.length, 4)]
    script += [_table_checksum(rsdt), _pointer(RSDP, 16, 4), _checksum(RSDP, 8, 0, 20)]
    loader = b"".join(script)
    return {
        TABLE_LOADER: loader.ljust(-(-len(loader) // _LOADER_UNIT) * _LOADER_UNIT, b"\0"),
        RSDP: b"RSD PTR \0BOCHS \0" + struct.pack("<I", rsdt.start),
        TABLES: blob,
    }


_LOADER_UNIT = 4096


def _allocate(name: str, align: int, zone: int) -> bytes:
    return struct.pack("<I56sIB", _ALLOCATE, name.encode(), align, zone).ljust(_COMMAND, b"\0")


def _pointer(file: str, at: int, size: int) -> bytes:
    return struct.pack("<I56s56sIB", 2, file.encode(), TABLES.encode(), at, size).ljust(_COMMAND, b"\0")


def _checksum(file: str, result: int, start: int, length: int) -> bytes:
    return struct.pack("<I56sIII", 3, file.encode(), result, start, length).ljust(_COMMAND, b"\0")


def _table_checksum(table: Table) -> bytes:
    return _checksum(TABLES, table.start + 9, table.start, table.length)


def measured(blobs: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The (fw_cfg name, bytes) that are measured, in order; ``MeasurementError`` when a loaded file is missing."""
    if TABLE_LOADER not in blobs:
        raise MeasurementError(
            f"fw_cfg: {TABLE_LOADER} is not among the blobs: the machine would have no ACPI tables"
        )
    names = allocated_files(blobs[TABLE_LOADER])
    for name in names:
        if name not in blobs:
            raise MeasurementError(f"fw_cfg: {TABLE_LOADER} loads {name}, which is not among the blobs")
    return ((TABLE_LOADER, blobs[TABLE_LOADER]), *((name, blobs[name]) for name in names))
