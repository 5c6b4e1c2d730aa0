"""What a guest's own SMBIOS table says of its machine: who made it, its UUID and its memory.

Source: SMBIOS 3.7 sections 7.2 (type 1) and 7.18 (type 17). The kernel shows the table to root.
"""

from __future__ import annotations

import uuid

from privml.base.errors import MeasurementError, printable
from privml.measure import smbios

_TYPE_MEMORY = 17
_MAKER, _PRODUCT, _UUID = 0x04, 0x05, 0x08
_SIZE, _EXTENDED = 0x0C, 0x1C
_UNKNOWN_SIZE, _EXTENDED_SIZE, _IN_KIB = 0xFFFF, 0x7FFF, 0x8000
_NO_UUIDS = (bytes(16), b"\xff" * 16)


def system(table: bytes) -> tuple[str, str, uuid.UUID]:
    """Maker, product and UUID of the machine; ``MeasurementError`` if the table does not say them."""
    found = [
        (start, length, end) for start, length, end in smbios.structures(table) if table[start] == smbios.TYPE_SYSTEM
    ]
    if len(found) != 1 or found[0][1] < _UUID + 16:
        raise MeasurementError(f"SMBIOS: {len(found)} structures of type 1, expected one with a UUID")
    start, length, end = found[0]
    value = table[start + _UUID : start + _UUID + 16]
    if value in _NO_UUIDS:
        raise MeasurementError("SMBIOS: the machine has no UUID")
    strings = table[start + length : end - 1].split(b"\0")
    names = []
    for offset in (_MAKER, _PRODUCT):
        number = table[start + offset]
        text = strings[number - 1] if 0 < number <= len(strings) else b""
        names.append(printable(text.decode("ascii", "replace"))[:64])
    return names[0], names[1], uuid.UUID(bytes_le=value)


def memory(table: bytes) -> int:
    """The bytes of all memory modules; ``MeasurementError`` if a size is not said."""
    total = 0
    for start, length, _ in smbios.structures(table):
        if table[start] != _TYPE_MEMORY:
            continue
        size = (
            int.from_bytes(table[start + _SIZE : start + _SIZE + 2], "little")
            if length >= _SIZE + 2
            else _UNKNOWN_SIZE
        )
        if size == _EXTENDED_SIZE and length >= _EXTENDED + 4:
            total += int.from_bytes(table[start + _EXTENDED : start + _EXTENDED + 4], "little") << 20
        elif size in (_UNKNOWN_SIZE, _EXTENDED_SIZE):
            raise MeasurementError("SMBIOS: a memory module (type 17) does not say its size")
        else:
            total += (size & ~_IN_KIB) << (10 if size & _IN_KIB else 20)
    if not total:
        raise MeasurementError("SMBIOS: no memory module (type 17) with a size")
    return total


def for_stub(table: bytes) -> bytes:
    """A table with only the structures that systemd-stub measures."""
    kept = (table[start:end] for start, _, end in smbios.structures(table) if table[start] in smbios.STUB_TYPES)
    return b"".join(kept) + smbios.END
