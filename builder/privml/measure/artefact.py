"""Third-party artefacts, identified by content: firmware, PE, kernel, UKI, disk, fw_cfg blobs.

Each is described with what it measures to by itself. What depends on a machine is named in a note, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1, RTMR2
from privml.events.replay import replay_digests
from privml.events.types import (
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_GPT_EVENT,
    EV_EFI_HANDOFF_TABLES,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_IPL,
    EV_PLATFORM_CONFIG_FLAGS,
)
from privml.measure import acpi, bzimage, fat, gpt, kernelheader, mrtd, payload, pe, smbios, tdvf, uki
from privml.measure.digest import Bytes, piece, sha384
from privml.measure.efivars import GLOBAL, secure_boot_variables, store
from privml.measure.profiles import TD_INTELTDX

_MAX_VARIABLES = 1 << 22
_MAX_IN_MEMORY = 1 << 30  # a disk image may be bigger: it is read in pieces


class Record(Protocol):
    """A record of a log that is not a TD's event: it has no SHA-384 digest."""

    @property
    def index(self) -> int:
        """PCR or MrIndex."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        ...

    def text(self) -> str:
        """Return one line for a person."""
        ...


@dataclass(frozen=True)
class Description:
    """What a file is and what it measures to; ``kind`` is a word for programs, ``title`` a line for a person.

    ``mrtd`` maps a page order (``single_pass``, ``two_pass``), or ``mrtd`` for a value that was read, to 48 bytes.
    ``registers`` are whole values; ``events`` are extends, of which there may be some without a whole register.
    ``records`` are a log's that has no SHA-384 digests, so that no register can be computed from it.
    ``facts`` are named values, ``notes`` say what the file alone does not show.
    """

    kind: str
    title: str
    mrtd: dict[str, bytes] = field(default_factory=dict)
    registers: dict[str, bytes] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    records: Sequence[Record] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``measure FILE --json``."""
        result: dict[str, Any] = {"kind": self.kind, "title": self.title}
        if "mrtd" in self.mrtd:
            result["mrtd"] = self.mrtd["mrtd"].hex()
        elif self.mrtd:
            result["mrtd"] = {order: value.hex() for order, value in self.mrtd.items()}
        result.update({register: value.hex() for register, value in self.registers.items()})
        result["events"] = [event.to_dict() for event in self.events]
        if self.records:
            result["records"] = [record.to_dict() for record in self.records]
        return {**result, "facts": self.facts, "notes": list(self.notes)}


def identify(data: Bytes) -> Description | None:
    """What ``data`` is; None when it is nothing known here. ``MeasurementError`` when it is, but malformed."""
    if gpt.is_disk(data):
        return _disk(data)
    if len(data) > _MAX_IN_MEMORY:
        return None
    if data[:2] == b"MZ":
        whole = data[:]
        is_uki = uki.stub_version(whole) is not None and _has_linux(whole)
        machine = pe.headers(whole).machine
        if machine != pe.MACHINE_X64:
            kernel = bzimage.is_kernel(whole)
            kind = "uki" if is_uki else "kernel" if kernel else "pe"
            what = {"uki": "unified kernel image", "kernel": "Linux kernel (bzImage)", "pe": "PE image"}[kind]
            return _of_other_machine(whole, kind, what, machine)
        return _uki(whole) if is_uki else _pe(whole)
    whole = data[:]
    if _is_firmware(whole):
        return _firmware(whole)
    if whole[40:44] == b"_FVH" and len(whole) <= _MAX_VARIABLES:
        return _split_variables(whole)
    return _blob(whole)


def _has_linux(image: bytes) -> bool:
    return any(section.name == ".linux" for section in pe.headers(image).sections)


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
    events = [_event(RTMR0, EV_EFI_PLATFORM_FIRMWARE_BLOB2, sha384(cfv), "CFV: its variables' volume")]
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
    return _event(RTMR0, EV_EFI_VARIABLE_DRIVER_CONFIG, sha384(encoded), f"variable {name}", note=note)


def _event(
    register: str, kind: int, digest: bytes, origin: str, *, level: Evidence = Evidence.HARDWARE, note: str = ""
) -> Event:
    return Event(register, kind, digest, origin, level, note)


def _application(digest: bytes, origin: str, note: str = "") -> Event:
    return _event(RTMR1, EV_EFI_BOOT_SERVICES_APPLICATION, digest, origin, note=note)


def _signature(data: bytes) -> dict[str, str]:
    """The digest that a signature is over, and whether it is over what is signed now."""
    digest = pe.authenticode(data, "sha256")
    signed = pe.signed_digest(data)
    facts = {"Authenticode SHA-256": digest.hex()}
    if signed is not None:
        facts["signature"] = "over this digest" if signed == digest else f"over another digest, {signed.hex()}"
    return facts


def _pe(data: bytes) -> Description:
    facts = _signature(data)
    notes = []
    kernel = bzimage.is_kernel(data)
    if kernel:
        protocol = bzimage.protocol(data)
        facts["boot protocol"] = f"{protocol >> 8}.{protocol & 0xFF}"
        notes.append(kernelheader.note("tdx"))
    return Description(
        "kernel" if kernel else "pe",
        f"Linux kernel (bzImage) of {len(data)} bytes" if kernel else f"PE image of {len(data)} bytes",
        events=(_application(pe.authenticode(data), "PE image", "Authenticode SHA-384, as edk2 hashes it"),),
        facts=facts,
        notes=tuple(notes),
    )


def _uki(data: bytes) -> Description:
    return _booted(
        data,
        "uki",
        f"unified kernel image of {len(data)} bytes, stub systemd {uki.stub_version(data)}",
        "values of a direct boot (QEMU -kernel, edk2 from 202411); from a disk RTMR1 is another",
    )


def _booted(data: bytes, kind: str, title: str, about: str, gpt_event: bytes | None = None) -> Description:
    """A UKI as it boots, directly or from the disk of ``gpt_event``: whole registers as far as they are modelled."""
    facts = _signature(data)
    found = uki.layout(data)
    for profile in found.profiles:
        name = "command line" if profile.number is None else f"profile {profile.number}"
        parts = [profile.name] if profile.name else []
        if profile.cmdline is not None:
            parts.append(profile.cmdline if profile.number is None else f"command line `{profile.cmdline}`")
        if parts:
            facts[name] = ", ".join(parts)
    try:
        whole = uki.facts(data)
        events = (
            payload.direct(whole, TD_INTELTDX)
            if gpt_event is None
            else payload.from_disk(whole, gpt_event, TD_INTELTDX)
        )
    except MeasurementError as error:
        return _partly(found, error.message, Description(kind, title, facts=facts, notes=(about,)), gpt_event)
    return Description(kind, title, registers=_registers(events), events=events, facts=facts, notes=(about,))


def _partly(found: uki.Layout, why: str, known: Description, gpt_event: bytes | None) -> Description:
    """A UKI of which something is not modelled: everything that does not depend on it."""
    stub, notes, registers = found.stub, [f"no whole rtmr2: {why}"], {}
    if stub.loads_kernel is None:
        events = [_application(found.authenticode, "uki.efi")]
        if gpt_event is not None:
            events.insert(0, _event(RTMR1, EV_EFI_GPT_EVENT, sha384(gpt_event), "partition table (GPT)"))
        notes.append(
            "no whole rtmr1: with this stub it depends on the kernel whether firmware loads .linux by itself"
        )
    else:
        inner = found.inner_kernel if stub.loads_kernel else None
        events = list(payload.image_alone(found.authenticode, inner, TD_INTELTDX, gpt_event=gpt_event))
        if inner is None and stub.loads_kernel:
            notes.append("no whole rtmr1: firmware loads .linux, which is not a PE image here or is a profile's")
        else:
            registers[RTMR1] = _registers(tuple(events))[RTMR1]
    if stub.measures:
        for profile in found.profiles:
            events += _profile_events(found, profile)
        notes += _section_notes(found)
    else:
        notes.append(
            f"the stub of systemd {found.version} measures nothing in a TD (the CC protocol came with 256): rtmr2 "
            "holds at most the command line and the initrd, which Linux measures itself from 6.9 on"
        )
    return Description(
        known.kind,
        known.title,
        registers=registers,
        events=tuple(events),
        facts=known.facts,
        notes=(*notes, *known.notes) if registers else tuple(notes),
    )


def _profile_events(found: uki.Layout, profile: uki.Profile) -> list[Event]:
    """The sections that the stub measures for one profile, which is the first unless the boot loader says another."""
    level = Evidence.HARDWARE if found.modelled and profile.number is None else Evidence.SOURCE
    of = "" if profile.number is None else f"profile {profile.number}: "
    events = []
    if profile.number and found.modelled:
        digest = sha384(uki.load_options(str(profile.number)))
        events.append(_event(RTMR2, EV_IPL, digest, f"{of}its number", level=level))
    for name, digest in profile.sections:
        events.append(_event(RTMR2, EV_IPL, sha384(name.encode() + b"\0"), f"{of}{name} (its name)", level=level))
        events.append(_event(RTMR2, EV_IPL, digest, f"{of}{name}", level=level))
    return events


def _section_notes(found: uki.Layout) -> list[str]:
    notes = []
    if not found.modelled:
        version = found.version
        notes.append(f"what the stub of systemd {version} measures of the sections is read in its source, not seen")
    if len(found.profiles) > 1:
        notes.append("rtmr2 is of one profile: the first, unless the boot loader or the host chooses another")
    chosen = sorted({name for profile in found.profiles for name in profile.chosen})
    if chosen:
        notes.append(f"of {', '.join(chosen)} the stub measures what fits the machine's hardware: not listed")
    notes.append("the kernel's own events for its command line and initrd are not listed")
    return notes


def _of_other_machine(data: bytes, kind: str, what: str, machine: int) -> Description:
    """An image that no TD can start: its digests, and no register."""
    name = pe.machine_name(machine)
    return Description(
        kind,
        f"{what} of {len(data)} bytes for {name}",
        facts={"machine": name, "Authenticode SHA-384": pe.authenticode(data).hex(), **_signature(data)},
        notes=(f"no TD can start it: the firmware of a TD is x86-64 and does not load images for {name}",),
    )


def _registers(events: tuple[Event, ...]) -> dict[str, bytes]:
    return {
        register: replay_digests(event.digest for event in events if event.register == register)
        for register in (RTMR1, RTMR2)
    }


def _disk(data: Bytes) -> Description:
    found = gpt.table(data)
    event = _event(RTMR1, EV_EFI_GPT_EVENT, sha384(found.event), "partition table (GPT)")
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
        booted = _booted(loader, "disk", title, about[0], found.event)
    except MeasurementError as error:
        return Description(
            "disk",
            title,
            events=(event, _application(authenticode, path)),
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
    return _event(RTMR0, EV_PLATFORM_CONFIG_FLAGS, sha384(data), name, note="ACPI DATA")


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
        kinds = [data[start] for start, _, _ in smbios.structures(data)]
    except MeasurementError:
        return None
    if not kinds or kinds[0] > smbios.TYPE_END or len(kinds) < 2:
        return None
    events = [
        _event(RTMR0, EV_IPL, sha384(body), f"type {kind}", level=Evidence.SOURCE, note="by systemd-stub 262")
        for kind, body in smbios.stub_structures(data)
    ]
    facts = {"types": ", ".join(map(str, kinds))}
    if smbios.TYPE_FIRMWARE not in kinds:
        notes = ("QEMU's table: firmware adds its Type 0 before it measures, so the table's digest depends on it",)
        return Description("smbios", f"fw_cfg {smbios.TABLES}", events=tuple(events), facts=facts, notes=notes)
    table = _event(RTMR0, EV_EFI_HANDOFF_TABLES, sha384(smbios.filtered(data)), "SMBIOS table, filtered")
    return Description("smbios", "SMBIOS table as firmware publishes it", events=(table, *events), facts=facts)
