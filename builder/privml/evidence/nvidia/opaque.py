"""The opaque data of an NVIDIA report: what the device says of itself under its signature.

A list of (id u16, length u16, value), little endian. Each id has one row below, with its length and its reader; an
unknown id, a second one with the same id or a wrong length is refused. The ids and their names are NVIDIA's
(NVIDIA/nvtrust and NVIDIA/attestation-sdk), lengths and forms those of real reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.evidence.document import GPU, SWITCH

PDI_SIZE = 8
MAX_LINKS = 64
SWITCH_GPUS = 8
SWITCH_PORTS = 64
NO_GPU = 0xFF

SPT = "spt"
MPT = "mpt"
PPCIE = "ppcie"
MODES = (SPT, MPT, PPCIE)
"""Values of the feature flag: single GPU pass-through, multi-GPU pass-through, protected PCIe."""

ON = 0xAA
OFF = 0x55

_DRIVER = re.compile(r"\A[0-9]{3,4}(?:\.[0-9]{2,3}){1,2}\Z")
_SWITCH_VBIOS = re.compile(r"\A[0-9A-F]{2}(?:\.[0-9A-F]{2}){4}\Z")


@dataclass(frozen=True)
class GpuOpaque:
    """What a GPU says: driver and VBIOS version, board, chip and project, and the state of its links.

    ``fwid`` (48 bytes) is absent in reports of old drivers, like ``mode`` and ``protected_pcie``. ``switches`` has
    the PDI of the switch behind each NVLink.
    """

    driver: str
    vbios: str
    board: bytes
    chip_sku: str
    chip_sku_modifier: str
    project: str
    project_sku: str
    project_sku_modifier: str
    nvdec: bool
    fwid: bytes | None
    protected_pcie: bool | None
    flag: str | None
    switches: tuple[bytes, ...]

    @property
    def mode(self) -> str | None:
        """The confidential mode: the feature flag, or what older firmware says without one."""
        if self.flag is not None or self.protected_pcie is None:
            return self.flag
        return PPCIE if self.protected_pcie else SPT

    @property
    def contradicts_itself(self) -> bool:
        """True if feature flag and protected PCIe status say different things."""
        known = self.flag is not None and self.protected_pcie is not None
        return known and self.protected_pcie is not (self.flag == PPCIE)


@dataclass(frozen=True)
class SwitchOpaque:
    """What an NVSwitch says: VBIOS version, its own PDI, and the PDIs of the GPUs at its ports, in order."""

    vbios: str
    pdi: bytes
    gpus: tuple[bytes, ...]
    position: int
    locked: int


Reader = Callable[[bytes], Any]


def _raw(*sizes: int) -> Reader:
    def read(value: bytes) -> bytes:
        if len(value) not in sizes:
            raise EvidenceError(f"{len(value)} bytes, expected {' or '.join(map(str, sizes))}")
        return value

    return read


def _number(size: int) -> Reader:
    def read(value: bytes) -> int:
        return int.from_bytes(_raw(size)(value), "little")

    return read


def _text(value: bytes) -> str:
    """ASCII followed by at least one NUL and nothing else."""
    text, end, rest = value.partition(b"\0")
    if not end or rest.strip(b"\0") or len(value) > 32 or not (text.isalnum() or not text):
        raise EvidenceError(f"{value[:32].hex()}, expected letters and digits ended by NUL")
    return text.decode("ascii", "replace")


def _driver(value: bytes) -> str:
    text = value[:-1].decode("ascii", "replace")
    if value[-1:] != b"\0" or not _DRIVER.match(text):
        raise EvidenceError(f"{value[:32].hex()}, expected a version like 590.12 ended by NUL")
    return text


def _gpu_vbios(value: bytes) -> str:
    """``00 a5 00 96 01 00 00 00`` is 96.00.A5.00.01."""
    if len(value) != 8 or any(value[5:]):
        raise EvidenceError(f"{value[:16].hex()}, expected 5 bytes and 3 zero bytes")
    return ".".join(f"{byte:02X}" for byte in (*reversed(value[:4]), value[4]))


def _switch_vbios(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if not _SWITCH_VBIOS.match(text):
        raise EvidenceError(f"{value[:32].hex()}, expected text like 96.10.73.00.01")
    return text


def _flag(value: bytes) -> str:
    number = _number(2)(value)
    if number >= len(MODES):
        raise EvidenceError(f"{number}, expected 0 to {len(MODES) - 1}")
    return MODES[number]


def _status(value: bytes) -> bool:
    if value not in (bytes([ON]), bytes([OFF])):
        raise EvidenceError(f"{value[:8].hex()}, expected {ON:02x} or {OFF:02x}")
    return value[0] == ON


def _counters(value: bytes) -> bytes:
    if not value or len(value) % 4 or len(value) > 512:
        raise EvidenceError(f"{len(value)} bytes, expected 4-byte counters")
    return value


def _link_switches(value: bytes) -> tuple[bytes, ...]:
    """One PDI a link. A GPU has them in the other byte order than the switch itself."""
    if len(value) % PDI_SIZE or not 1 <= len(value) // PDI_SIZE <= MAX_LINKS:
        raise EvidenceError(f"{len(value)} bytes, expected 1 to {MAX_LINKS} PDIs of {PDI_SIZE}")
    return tuple(bytes(reversed(value[at : at + PDI_SIZE])) for at in range(0, len(value), PDI_SIZE))


def _switch_gpus(value: bytes) -> tuple[bytes, ...]:
    """Eight PDIs, then for each port the number of its GPU among them or `NO_GPU`."""
    _raw(SWITCH_GPUS * PDI_SIZE + SWITCH_PORTS)(value)
    split = SWITCH_GPUS * PDI_SIZE
    if any(port >= SWITCH_GPUS and port != NO_GPU for port in value[split:]):
        raise EvidenceError(
            f"a port with GPU {max(port for port in value[split:] if port != NO_GPU)}, expected 0 to 7"
        )
    return tuple(value[at : at + PDI_SIZE] for at in range(0, split, PDI_SIZE))


@dataclass(frozen=True)
class _Row:
    name: str
    read: Reader
    needed: bool = True


_VERSION_1 = _number(2)
_GPU_FIELDS: Mapping[int, _Row] = {
    3: _Row("driver version", _driver),
    4: _Row("GPU info", _raw(8)),
    6: _Row("VBIOS version", _gpu_vbios),
    11: _Row("NVDEC0 status", _status),
    12: _Row("measurement counts", _counters),
    13: _Row("CPR info", _raw(4)),
    14: _Row("board id", _raw(4)),
    15: _Row("chip SKU", _text),
    16: _Row("chip SKU modifier", _text),
    17: _Row("project", _text),
    18: _Row("project SKU", _text),
    19: _Row("project SKU modifier", _text),
    20: _Row("FWID", _raw(48), needed=False),
    21: _Row("protected PCIe status", _status, needed=False),
    22: _Row("switch PDIs", _link_switches, needed=False),
    34: _Row("opaque data version", _VERSION_1, needed=False),
    36: _Row("feature flag", _flag, needed=False),
}
_SWITCH_FIELDS: Mapping[int, _Row] = {
    6: _Row("VBIOS version", _switch_vbios),
    12: _Row("measurement counts", _counters),
    22: _Row("device PDI", _raw(PDI_SIZE)),
    23: _Row("disabled ports", _raw(2)),
    24: _Row("position", _number(2)),
    25: _Row("lock status", _number(2)),
    26: _Row("GPU PDIs", _switch_gpus),
}
_FIELDS = {GPU: _GPU_FIELDS, SWITCH: _SWITCH_FIELDS}


def parse(kind: str, data: bytes) -> GpuOpaque | SwitchOpaque:
    """Read the opaque data of a report by a device of this kind; ``EvidenceError`` unless every field is known."""
    found = _values(_FIELDS[kind], data)
    if kind == SWITCH:
        return SwitchOpaque(vbios=found[6], pdi=found[22], gpus=found[26], position=found[24], locked=found[25])
    version = found.get(34, 1)
    if version != 1:
        raise EvidenceError(f"GPU report: opaque data version {version}, expected 1")
    return GpuOpaque(
        driver=found[3],
        vbios=found[6],
        board=found[14],
        chip_sku=found[15],
        chip_sku_modifier=found[16],
        project=found[17],
        project_sku=found[18],
        project_sku_modifier=found[19],
        nvdec=found[11],
        fwid=found.get(20),
        protected_pcie=found.get(21),
        flag=found.get(36),
        switches=found.get(22, ()),
    )


def fields(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The (id, value) pairs in order; ``EvidenceError`` if the last one is cut off."""
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "little")
        value = data[at + 4 : at + 4 + size]
        if len(data) < at + 4 or len(value) != size:
            raise EvidenceError(f"GPU report: the opaque data ends in the field at byte {at}")
        found.append((int.from_bytes(data[at : at + 2], "little"), value))
        at += 4 + size
    return tuple(found)


def encode(pairs: tuple[tuple[int, bytes], ...]) -> bytes:
    """Opaque data with these (id, value) pairs."""
    return b"".join(
        number.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for number, value in pairs
    )


def _values(rows: Mapping[int, _Row], data: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for number, value in fields(data):
        row = rows.get(number)
        if row is None:
            raise EvidenceError(f"GPU report: opaque field {number}, which this version does not know")
        if number in found:
            raise EvidenceError(f"GPU report: opaque field {number} ({row.name}) is given twice")
        try:
            found[number] = row.read(value)
        except EvidenceError as error:
            raise EvidenceError(f"GPU report: opaque field {number} ({row.name}): {error.message}") from error
    missing = [f"{number} ({row.name})" for number, row in rows.items() if row.needed and number not in found]
    if missing:
        raise EvidenceError(f"GPU report: opaque field {missing[0]} is missing")
    return found
