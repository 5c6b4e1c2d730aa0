"""Which fw_cfg blobs OVMF measures as "ACPI DATA", in which order: by the loader script's ALLOCATE commands.

Source: edk2 OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c (commit 935343cf16): the script itself is measured
first, then each file as it is downloaded, before any pointer or checksum is patched.
"""

from __future__ import annotations

from collections.abc import Mapping

from privml.base.errors import MeasurementError
from privml.measure.digest import piece

TABLE_LOADER = "etc/table-loader"
_COMMAND = 128
_ALLOCATE = 1
_KNOWN = range(1, 5)  # allocate, add pointer, add checksum, write pointer
_MAX_BYTES = 1 << 20


def allocated_files(loader: bytes) -> tuple[str, ...]:
    """The names that the script's ALLOCATE commands load, in order; ``MeasurementError`` for a malformed script."""
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


def measured(blobs: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The (fw_cfg name, bytes) that are measured, in order; ``MeasurementError`` when a loaded file is not given."""
    if TABLE_LOADER not in blobs:
        raise MeasurementError(
            f"fw_cfg: {TABLE_LOADER} is not among the blobs: the machine would have no ACPI tables"
        )
    names = allocated_files(blobs[TABLE_LOADER])
    for name in names:
        if name not in blobs:
            raise MeasurementError(f"fw_cfg: {TABLE_LOADER} loads {name}, which is not among the blobs")
    return ((TABLE_LOADER, blobs[TABLE_LOADER]), *((name, blobs[name]) for name in names))
