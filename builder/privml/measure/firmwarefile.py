"""Describe firmware and its variables' volume.

For TDX: MRTD in both page orders, and the first events of RTMR0. For SEV-SNP: what the launch digest covers.
"""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.events.event import Event
from privml.events.registers import RTMR0
from privml.events.types import EV_EFI_PLATFORM_FIRMWARE_BLOB2, EV_EFI_VARIABLE_DRIVER_CONFIG
from privml.measure import mrtd, smbios, tdvf
from privml.measure.description import Description, one_event
from privml.measure.digest import piece, sha384
from privml.measure.efivars import GLOBAL, secure_boot_variables, store
from privml.measure.snp import launch, table


def describe(data: bytes) -> Description:
    """Describe a unified firmware for TDX, SEV-SNP or both; ``MeasurementError`` when it is for neither."""
    facts: dict[str, str] = {}
    notes: list[str] = []
    values: dict[str, bytes] = {}
    events: list[Event] = []
    try:
        snp = table.read(data)
    except MeasurementError:
        snp = None
    try:
        found = tdvf.sections(data)
    except MeasurementError:
        if snp is None:
            raise
        found = ()
    if found:
        events = _of_td(data, found, facts, notes)
        values = {f"{order}_pass": value for order, value in mrtd.both(data).items()}
    if snp is not None:
        _of_snp(data, snp, facts, notes)
    try:
        strings = smbios.firmware_strings(data)
        facts["SMBIOS Type 0"] = f"{strings.vendor}, {strings.version}, {strings.date}"
    except MeasurementError as error:
        notes.append(error.message)
    kind = "TDVF firmware" if snp is None else "SEV-SNP firmware" if not found else "TDVF and SEV-SNP firmware"
    return Description(
        "firmware",
        f"{kind} of {len(data)} bytes",
        mrtd=values,
        events=tuple(events),
        facts=facts,
        notes=tuple(notes),
    )


def _of_td(
    data: bytes, found: tuple[tdvf.FirmwareSection, ...], facts: dict[str, str], notes: list[str]
) -> list[Event]:
    """What a TD measures of the firmware."""
    notes.append("RTMR0 also depends on the machine: give `measure` a built image, or compare a log with `explain`")
    facts |= {
        f"section {number} {one.type_name}": f"0x{one.gpa:x}, {one.memory_size} bytes"
        + (", measured" if one.attributes & tdvf.ATTRIBUTE_EXTEND else "")
        for number, one in enumerate(found)
    }
    if any(section.type == tdvf.CFV for section in found):
        section = tdvf.only(found, tdvf.CFV)
        return _variables_volume(piece(data, section.offset, section.raw_size, "CFV section"), notes)
    notes.append("it has no CFV section: not an OVMF build, and its events differ")
    return []


def _of_snp(data: bytes, found: table.Table, facts: dict[str, str], notes: list[str]) -> None:
    """What the launch digest of an SNP guest covers of the firmware."""
    facts |= {
        f"SNP section {number} {one.kind.name}": f"0x{one.gpa:x}, {one.size} bytes"
        for number, one in enumerate(found.sections)
    }
    facts["SNP launch digest after the firmware"] = launch.after_firmware(data).hex()
    if found.hashes is None:
        notes.append("under SEV-SNP it checks no hash of a kernel, so its launch digest says nothing of its kernel")
    else:
        facts["SNP hashes of kernel, initrd, command line"] = f"0x{found.hashes:x}"


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
