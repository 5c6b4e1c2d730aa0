"""Describe PE images: kernels, UKIs of any stub, and images that no TD can start."""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR1, RTMR2
from privml.events.replay import replay_digests
from privml.events.types import EV_EVENT_TAG, EV_IPL
from privml.measure import bzimage, kernelheader, payload, pe, uki
from privml.measure.description import Description, image_event, one_event
from privml.measure.digest import sha384
from privml.measure.profiles import TD_INTELTDX

_TITLES = {"uki": "unified kernel image", "kernel": "Linux kernel (bzImage)", "pe": "PE image"}


def describe(image: bytes) -> Description:
    """Describe a PE image; ``MeasurementError`` when it is malformed."""
    head = pe.headers(image)
    is_uki = uki.stub_version(image) is not None and any(one.name == ".linux" for one in head.sections)
    if head.machine != pe.MACHINE_X64:
        kind = "uki" if is_uki else "kernel" if bzimage.is_kernel(image) else "pe"
        return _of_other_machine(image, kind, head.machine)
    return _uki(image) if is_uki else _pe(image)


def _signature(data: bytes) -> dict[str, str]:
    """The digest that the signature covers, and whether it matches the image."""
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
        f"{_TITLES['kernel' if kernel else 'pe']} of {len(data)} bytes",
        events=(image_event(pe.authenticode(data), "PE image", "Authenticode SHA-384, as edk2 hashes it"),),
        facts=facts,
        notes=tuple(notes),
    )


def _uki(data: bytes) -> Description:
    return booted(
        data,
        "uki",
        f"{_TITLES['uki']} of {len(data)} bytes, stub systemd {uki.stub_version(data)}",
        "values of a direct boot (QEMU -kernel, edk2 from 202411); RTMR1 differs in a boot from a disk",
    )


def booted(data: bytes, kind: str, title: str, about: str, gpt_event: bytes | None = None) -> Description:
    """Registers of a UKI booted directly or from the disk of ``gpt_event``, as far as they are modelled."""
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


def _partly(found: uki.UkiLayout, why: str, known: Description, gpt_event: bytes | None) -> Description:
    """Registers of a UKI with a part that is not modelled: everything that does not depend on that part."""
    stub, registers, facts = found.stub, {}, dict(known.facts)
    notes: list[str] = []
    loads_kernel = stub.loads_kernel and not found.handover
    inner = found.inner_kernel if loads_kernel else None
    events = list(payload.image_alone(found.authenticode, inner, TD_INTELTDX, gpt_event=gpt_event))
    if inner is None and loads_kernel:
        notes.append("no complete rtmr1: firmware loads .linux, which is not a PE image here or is a profile's")
    else:
        registers[RTMR1] = _registers(tuple(events))[RTMR1]
    if stub.loads_kernel and found.handover:
        notes.append("the kernel is older than Linux 5.8: the stub starts it without an event in rtmr1")
    if stub.measures:
        values = {}
        for profile in found.profiles:
            of_profile = _profile_events(found, profile)
            events += of_profile
            if _is_complete(found, profile):
                values[profile.number] = replay_digests(event.digest for event in of_profile)
        if None in values:
            registers[RTMR2] = values[None]
        facts |= {f"rtmr2 of profile {number}": value.hex() for number, value in values.items() if number is not None}
        if len(values) < len(found.profiles):
            notes.append(f"no complete rtmr2: {why}")
        notes += _section_notes(found, complete=len(values) == len(found.profiles))
    else:
        notes.append(f"no complete rtmr2: {why}")
        notes.append(
            f"the stub of systemd {found.version} measures nothing in a TD (the CC protocol came with 256): rtmr2 "
            "holds at most the command line and the initrd, which Linux measures itself from 6.9 on"
        )
    return Description(
        known.kind,
        known.title,
        registers=registers,
        events=tuple(events),
        facts=facts,
        notes=(*notes, *known.notes) if registers else tuple(notes),
    )


def _profile_events(found: uki.UkiLayout, profile: uki.UkiProfile) -> list[Event]:
    """The sections that the stub measures for one profile: the first, unless the boot loader chooses another."""
    level = Evidence.HARDWARE if found.modelled and profile.number is None else Evidence.SOURCE
    of = "" if profile.number is None else f"profile {profile.number}: "
    events = []
    if profile.number and found.modelled:
        digest = sha384(uki.load_options(str(profile.number)))
        events.append(one_event(RTMR2, EV_IPL, digest, f"{of}its number", level=level))
    for name, digest in profile.sections:
        events.append(one_event(RTMR2, EV_IPL, sha384(name.encode() + b"\0"), f"{of}{name} (its name)", level=level))
        events.append(one_event(RTMR2, EV_IPL, digest, f"{of}{name}", level=level))
    if found.modelled and profile.cmdline and uki.has_console(profile.cmdline):
        digest = sha384(uki.load_options(profile.cmdline))
        what = f"{of}.cmdline as the kernel's LoadOptions"
        events.append(one_event(RTMR2, EV_EVENT_TAG, digest, what, level=Evidence.SOURCE))
    if found.modelled and profile.initrd is not None:
        what = f"{of}.initrd with the stub's additions"
        events.append(one_event(RTMR2, EV_EVENT_TAG, profile.initrd, what, level=Evidence.SOURCE))
    return events


def _is_complete(found: uki.UkiLayout, profile: uki.UkiProfile) -> bool:
    """True if `_profile_events` has all events of RTMR2: the stub's, and the kernel's for command line and initrd."""
    device_tree = any(name == ".dtb" for name, _ in profile.sections)
    return (
        found.modelled
        and not profile.chosen
        and not device_tree
        and profile.cmdline is not None
        and uki.has_console(profile.cmdline)
    )


def _section_notes(found: uki.UkiLayout, *, complete: bool) -> list[str]:
    notes = []
    if complete and found.modelled:
        notes.append("rtmr2 is computed from the stub's source; no boot of such a UKI was compared")
    if not found.modelled:
        version = found.version
        notes.append(
            f"what the stub of systemd {version} measures of the sections is known from its source, not from a boot"
        )
    if len(found.profiles) > 1:
        notes.append("rtmr2 is of one profile: the first, unless the boot loader or the host chooses another")
    chosen = sorted({name for profile in found.profiles for name in profile.chosen})
    if chosen:
        notes.append(f"of {', '.join(chosen)} the stub measures what fits the machine's hardware: not listed")
    if not found.modelled:
        notes.append("the kernel's own events for its command line and initrd are not listed")
    elif not complete:
        notes.append("the kernel's own event for its command line is listed only if the stub does not change it")
    return notes


def _of_other_machine(data: bytes, kind: str, machine: int) -> Description:
    """An image that no TD can start: digests only, no registers."""
    name = pe.machine_name(machine)
    return Description(
        kind,
        f"{_TITLES[kind]} of {len(data)} bytes for {name}",
        facts={"machine": name, "Authenticode SHA-384": pe.authenticode(data).hex(), **_signature(data)},
        notes=(f"no TD can start it: the firmware of a TD is x86-64 and does not load images for {name}",),
    )


def _registers(events: tuple[Event, ...]) -> dict[str, bytes]:
    return {
        register: replay_digests(event.digest for event in events if event.register == register)
        for register in (RTMR1, RTMR2)
    }
