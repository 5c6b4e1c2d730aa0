"""UEFI variables: the store inside a firmware's CFV section, and the bytes that firmware measures of a variable.

Source: edk2 MdeModulePkg/Include/Guid/VariableFormat.h (authenticated format), UEFI 2.10 section 8.2,
MdeModulePkg/Universal/Variable/RuntimeDxe/Measurement.c.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_ENABLE = uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44")

_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_HEADER = 60
_START_ID = 0x55AA
_ADDED = (0x3F, 0x3E)  # added; added and about to be replaced

MEASURED = (
    (GLOBAL, "PK"),
    (GLOBAL, "KEK"),
    (SECURITY_DATABASE, "db"),
    (SECURITY_DATABASE, "dbx"),
)
TIMESTAMP_DATABASE = (SECURITY_DATABASE, "dbt")

Store = Mapping[tuple[uuid.UUID, str], bytes]


@dataclass(frozen=True)
class Variable:
    """A measured variable: vendor GUID, name, data (empty when it is absent)."""

    vendor: uuid.UUID
    name: str
    data: bytes

    def encoded(self) -> bytes:
        """UEFI_VARIABLE_DATA, the bytes that DRIVER_CONFIG and AUTHORITY events hash."""
        name = self.name.encode("utf-16-le")
        lengths = (len(name) // 2).to_bytes(8, "little") + len(self.data).to_bytes(8, "little")
        return self.vendor.bytes_le + lengths + name + self.data


def store(cfv: bytes) -> dict[tuple[uuid.UUID, str], bytes]:
    """The live variables of a CFV section; ``MeasurementError`` when it is not an authenticated variable store."""
    if piece(cfv, 40, 4, "CFV header") != b"_FVH":
        raise MeasurementError("firmware: the CFV section is not a firmware volume")
    start = unsigned(cfv, 48, 2, "CFV header length")
    if piece(cfv, start, 16, "variable store") != _STORE:
        raise MeasurementError("firmware: the CFV section holds no authenticated variable store")
    end = start + unsigned(cfv, start + 16, 4, "variable store size")
    if end > len(cfv):
        raise MeasurementError(f"firmware: variable store ends at byte {end} of a CFV of {len(cfv)} bytes")
    found: dict[tuple[uuid.UUID, str], bytes] = {}
    position = start + 28
    while position + _HEADER <= end and unsigned(cfv, position, 2, "variable") == _START_ID:
        header = piece(cfv, position, _HEADER, "variable header")
        name_size, data_size = int.from_bytes(header[36:40], "little"), int.from_bytes(header[40:44], "little")
        body = position + _HEADER
        if body + name_size + data_size > end:
            raise MeasurementError(f"firmware: variable at byte {position} of the CFV passes the store's end")
        if header[2] in _ADDED:
            name = _name(cfv[body : body + name_size])
            key = uuid.UUID(bytes_le=header[44:60]), name
            if key in found:
                # A replacement that was cut short: which of the two counts is the firmware's to decide.
                raise MeasurementError(f"firmware: the CFV holds two live copies of the variable {name[:40]}")
            found[key] = cfv[body + name_size : body + name_size + data_size]
        position = (body + name_size + data_size + 3) & ~3
    return found


def _name(raw: bytes) -> str:
    try:
        return raw.decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise MeasurementError("firmware: a variable's name is not UTF-16") from error


def secure_boot_variables(variables: Store, *, capable: bool) -> tuple[Variable, ...]:
    """The variables measured into RTMR0 before the separator, in order.

    ``capable`` says whether the firmware was built with Secure Boot: without it there is no ``SecureBoot`` variable;
    with it the variable is one byte: 1 when a platform key is enrolled and Secure Boot was not switched off, else 0.
    """
    state = b""
    if capable:
        enabled = variables.get((SECURE_BOOT_ENABLE, "SecureBootEnable"), b"\1") == b"\1"
        state = b"\1" if variables.get((GLOBAL, "PK")) and enabled else b"\0"
    result = [Variable(GLOBAL, "SecureBoot", state)]
    result.extend(Variable(vendor, name, variables.get((vendor, name), b"")) for vendor, name in MEASURED)
    if TIMESTAMP_DATABASE in variables:
        result.append(Variable(*TIMESTAMP_DATABASE, variables[TIMESTAMP_DATABASE]))
    return tuple(result)
