"""The facts of a firmware file that a prediction needs, so that the file is read once."""

from __future__ import annotations

from dataclasses import dataclass

from privml.measure.digest import piece, sha384
from privml.measure.efivars import Store, store
from privml.measure.mrtd import both
from privml.measure.smbios import FirmwareStrings, firmware_strings
from privml.measure.tdvf import CFV, FirmwareSection, only, sections


@dataclass(frozen=True)
class FirmwareFacts:
    """TDVF sections, both MRTD values, SHA-384 of the CFV section, its live variables, and the Type 0 strings."""

    sections: tuple[FirmwareSection, ...]
    mrtd_single: bytes
    mrtd_two: bytes
    cfv: bytes
    variables: Store
    strings: FirmwareStrings


def facts(firmware: bytes) -> FirmwareFacts:
    """Read a unified firmware file; ``MeasurementError`` when it cannot start a TD."""
    found = sections(firmware)
    section = only(found, CFV)
    orders = both(firmware)
    cfv = piece(firmware, section.offset, section.raw_size, "CFV section")
    return FirmwareFacts(
        sections=found,
        mrtd_single=orders["single"],
        mrtd_two=orders["two"],
        cfv=sha384(cfv),
        variables=store(cfv),
        strings=firmware_strings(firmware),
    )
