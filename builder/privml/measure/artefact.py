"""Third-party artefacts, identified by content: firmware, PE, kernel, UKI, disk, fw_cfg blobs.

Each is described with what it measures to by itself. What depends on a machine is named in a note, never guessed.
"""

from __future__ import annotations

from dataclasses import replace

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1
from privml.events.types import (
    EV_EFI_GPT_EVENT,
    EV_EFI_HANDOFF_TABLES,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_IPL,
    EV_PLATFORM_CONFIG_FLAGS,
)
from privml.measure import acpi, fat, gpt, images, mrtd, pe, smbios, tdvf
from privml.measure.description import Description, image_event, one_event
from privml.measure.digest import Bytes, piece, sha384
from privml.measure.efivars import GLOBAL, secure_boot_variables, store

_MAX_VARIABLES = 1 << 22
_MAX_IN_MEMORY = 1 << 30  # a disk image may be bigger: it is read in pieces


def identify(data: Bytes) -> Description | None:
    """What ``data`` is; None when it is nothing known here. ``MeasurementError`` when it is, but malformed."""
    if gpt.is_disk(data):
        return _disk(data)
    if len(data) > _MAX_IN_MEMORY:
        return None
    if data[:2] == b"MZ":
        return images.describe(data[:])
    whole = data[:]
    if _is_firmware(whole):
        return _firmware(whole)
    if whole[40:44] == b"_FVH" and len(whole) <= _MAX_VARIABLES:
        return _split_variables(whole)
    return _blob(whole)


def _is_firmware(data: bytes) -> bool:
    return tdvf.FOOTER in data[-4096:] and data[-48:-32] == tdvf.FOOTER


def _firmware(data: bytes) -> Description:
    found = tdvf.sections(data)
    notes = ["RTMR0 needs the machine too: give `measure` a built image, or compare a log with `explain`"]
    events: list[Event] = []
    if any(section.type == tdvf.CFV for section in found):
        section = tdvf.only(found, tdvf.CFV)
        events = _variables_volume(piece(data, section.offset, section.raw_size, "CFV section"), notes)
    else:
        notes.append("it has no CFV section: not an OVMF build, and its events are others")
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


def _split_variables(data: bytes) -> Description:
    """An ``OVMF_VARS`` file: the volume that a unified firmware has as its CFV."""
    notes = ["half of a firmware: MRTD needs the unified file, which begins with this volume"]
    return Description(
        "variables",
        f"UEFI variables' volume of {len(data)} bytes",
        events=tuple(_variables_volume(data, notes)),
        notes=tuple(notes),
    )


def _variables_volume(cfv: bytes, notes: list[str]) -> list[Event]:
    """The CFV's event, and its Secure Boot variables' as far as it can be read."""
    events = [one_event(RTMR0, EV_EFI_PLATFORM_FIRMWARE_BLOB2, sha384(cfv), "CFV: its variables' volume")]
    try:
        variables = store(cfv)
    except MeasurementError as error:
        notes.append(f"the Secure Boot variables are not known: {error.message}")
        return events
    # Keys in a firmware without Secure Boot would be measured too, but nobody enrols them there.
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


def _disk(data: Bytes) -> Description:
    found = gpt.table(data)
    event = one_event(RTMR1, EV_EFI_GPT_EVENT, sha384(found.event), "partition table (GPT)")
    facts = {"disk": str(found.disk)}
    for number, one in enumerate(found.partitions, 1):
        facts[f"partition {number}"] = f"{one.name}, {one.guid}, bytes {one.start} to {one.end}"
    esp = next((one for one in found.partitions if one.type == gpt.ESP), None)
    title = f"disk image with {len(found.partitions)} partitions"
    if esp is None:
        return Description("disk", title, events=(event,), facts=facts, notes=("it has no EFI system partition",))
    try:
        loader = fat.read(data, esp.start)
        authenticode = pe.authenticode(loader)
    except MeasurementError as error:
        return Description("disk", title, events=(event,), facts=facts, notes=(error.message,))
    path = "/".join(fat.REMOVABLE)
    facts[path] = f"{len(loader)} bytes"
    machine = pe.headers(loader).machine
    if machine != pe.MACHINE_X64:
        note = f"no TD can start {path}: it is for {pe.machine_name(machine)}, and the firmware of a TD is x86-64"
        return Description("disk", title, events=(event,), facts=facts, notes=(note,))
    about = (
        f"values of a boot from {path}; RTMR0 then holds boot options that depend on the machine's devices",
        "software-TPM boots called ExitBootServices twice here, which adds two events to RTMR1",
    )
    try:
        booted = images.booted(loader, "disk", title, about[0], found.event)
    except MeasurementError as error:
        return Description(
            "disk",
            title,
            events=(event, image_event(authenticode, path)),
            facts=facts,
            notes=(f"no whole registers: {error.message}",),
        )
    notes = (*booted.notes, about[1]) if booted.registers else booted.notes
    return replace(booted, facts={**facts, **booted.facts}, notes=notes)


def _blob(data: bytes) -> Description | None:
    for reader in (_loader, _acpi, _smbios):
        found = reader(data)
        if found is not None:
            return found
    return None


def _acpi_event(name: str, data: bytes) -> Event:
    return one_event(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(data), name, note="ACPI DATA")


def _loader(data: bytes) -> Description | None:
    if data[:4] != b"\1\0\0\0" or data[4:8] != b"etc/" or len(data) % 128:
        return None
    names = acpi.allocated_files(data)
    return Description(
        "table-loader",
        f"fw_cfg {acpi.TABLE_LOADER}",
        events=(_acpi_event(acpi.TABLE_LOADER, data),),
        facts={"loads": ", ".join(names)},
        notes=("each file that it loads is measured after it, in this order",),
    )


def _acpi(data: bytes) -> Description | None:
    if data[:8] == b"RSD PTR " and len(data) in (20, 36):
        return Description("rsdp", f"fw_cfg {acpi.RSDP}", events=(_acpi_event(acpi.RSDP, data),))
    if data[:4] not in (b"FACS", b"DSDT"):
        return None
    names = ", ".join(table.name for table in acpi.tables(data))
    try:
        blobs = acpi.derived(data)
    except MeasurementError as error:
        return Description(
            "acpi-tables",
            f"fw_cfg {acpi.TABLES}",
            events=(_acpi_event(acpi.TABLES, data),),
            facts={"tables": names},
            notes=(error.message,),
        )
    events = tuple(_acpi_event(name, blobs[name]) for name in (acpi.TABLE_LOADER, acpi.RSDP, acpi.TABLES))
    notes = (f"{acpi.TABLE_LOADER} and {acpi.RSDP} follow from the tables, when no device adds commands of its own",)
    return Description("acpi-tables", f"fw_cfg {acpi.TABLES}", events=events, facts={"tables": names}, notes=notes)


def _smbios(data: bytes) -> Description | None:
    try:
        starts = [start for start, _, _ in smbios.structures(data)]
    except MeasurementError:
        return None
    kinds = [data[start] for start in starts]
    handles = {data[start + 2 : start + 4] for start in starts}
    # Other files can be walked as structures too: a table ends with Type 127, and no handle is there twice.
    if len(kinds) < 2 or kinds[-1] != smbios.TYPE_END or len(handles) != len(starts):
        return None
    events = [
        one_event(RTMR0, EV_IPL, sha384(body), f"type {kind}", level=Evidence.SOURCE, note="by systemd-stub 262")
        for kind, body in smbios.stub_structures(data)
    ]
    facts = {"types": ", ".join(map(str, kinds))}
    if smbios.TYPE_FIRMWARE not in kinds:
        notes = ("QEMU's table: firmware adds its Type 0 before it measures, so the table's digest depends on it",)
        return Description("smbios", f"fw_cfg {smbios.TABLES}", events=tuple(events), facts=facts, notes=notes)
    table = one_event(RTMR0, EV_EFI_HANDOFF_TABLES, sha384(smbios.filtered(data)), "SMBIOS table, filtered")
    return Description("smbios", "SMBIOS table as firmware publishes it", events=(table, *events), facts=facts)
