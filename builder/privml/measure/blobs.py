"""Describe single fw_cfg blobs: ACPI files and SMBIOS tables."""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0
from privml.events.types import EV_EFI_HANDOFF_TABLES, EV_IPL, EV_PLATFORM_CONFIG_FLAGS
from privml.measure import acpi, smbios
from privml.measure.description import Description, one_event
from privml.measure.digest import sha384


def describe(data: bytes) -> Description | None:
    """Describe a blob; None when ``data`` is not a known one."""
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
