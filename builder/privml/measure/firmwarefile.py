"""Describe TDX firmware and its variables' volume: MRTD in both page orders, and the first events of RTMR0."""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.events.event import Event
from privml.events.registers import RTMR0
from privml.events.types import EV_EFI_PLATFORM_FIRMWARE_BLOB2, EV_EFI_VARIABLE_DRIVER_CONFIG
from privml.measure import mrtd, smbios, tdvf
from privml.measure.description import Description, one_event
from privml.measure.digest import piece, sha384
from privml.measure.efivars import GLOBAL, secure_boot_variables, store


def describe(data: bytes) -> Description:
    """Describe a unified TDX firmware; ``MeasurementError`` when it is malformed."""
    found = tdvf.sections(data)
    notes = ["RTMR0 also depends on the machine: give `measure` a built image, or compare a log with `explain`"]
    events: list[Event] = []
    if any(section.type == tdvf.CFV for section in found):
        section = tdvf.only(found, tdvf.CFV)
        events = _variables_volume(piece(data, section.offset, section.raw_size, "CFV section"), notes)
    else:
        notes.append("it has no CFV section: not an OVMF build, and its events differ")
    facts = {
        f"section {number} {one.type_name}": f"0x{one.gpa:x}, {one.memory_size} bytes"
        + (", measured" if one.attributes & tdvf.ATTRIBUTE_EXTEND else "")
        for number, one in enumerate(found)
    }
    try:
        strings = smbios.firmware_strings(data)
        facts["SMBIOS Type 0"] = f"{strings.vendor}, {strings.version}, {strings.date}"
    except MeasurementError as error:
        notes.append(error.message)
    return Description(
        "firmware",
        f"TDVF firmware of {len(data)} bytes",
        mrtd={f"{order}_pass": value for order, value in mrtd.both(data).items()},
        events=tuple(events),
        facts=facts,
        notes=tuple(notes),
    )


def describe_variables(data: bytes) -> Description:
    """An ``OVMF_VARS`` file: the volume that a unified firmware has as its CFV."""
    notes = ["half of a firmware: MRTD needs the unified file, which begins with this volume"]
    return Description(
        "variables",
        f"UEFI variables' volume of {len(data)} bytes",
        events=tuple(_variables_volume(data, notes)),
        notes=tuple(notes),
    )


def _variables_volume(cfv: bytes, notes: list[str]) -> list[Event]:
    """The event of the CFV, and those of its Secure Boot variables when they can be read."""
    events = [one_event(RTMR0, EV_EFI_PLATFORM_FIRMWARE_BLOB2, sha384(cfv), "CFV: its variables' volume")]
    try:
        variables = store(cfv)
    except MeasurementError as error:
        notes.append(f"the Secure Boot variables are not known: {error.message}")
        return events
    # Keys in a firmware without Secure Boot would be measured too, but they are never enrolled there.
    for capable in (True,) if variables.get((GLOBAL, "PK")) else (False, True):
        state, *rest = secure_boot_variables(variables, capable=capable)
        if capable or not state.data:
            note = "in a build with Secure Boot" if capable else "in a build without Secure Boot"
            events.append(_variable(state.name, state.encoded(), note))
        if capable:
            events += [_variable(one.name, one.encoded(), "") for one in rest]
    return events


def _variable(name: str, encoded: bytes, note: str) -> Event:
    return one_event(RTMR0, EV_EFI_VARIABLE_DRIVER_CONFIG, sha384(encoded), f"variable {name}", note=note)
