"""Describe a GPT disk image: its partition table, and the UKI that firmware starts from it."""

from __future__ import annotations

from dataclasses import replace

from privml.base.errors import MeasurementError
from privml.events.registers import RTMR1
from privml.events.types import EV_EFI_GPT_EVENT
from privml.measure import fat, gpt, images, pe
from privml.measure.description import Description, image_event, one_event
from privml.measure.digest import Bytes, sha384


def describe(data: Bytes) -> Description:
    """Describe a disk image; ``MeasurementError`` when its partition table is malformed."""
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
            notes=(f"no complete registers: {error.message}",),
        )
    notes = (*booted.notes, about[1]) if booted.registers else booted.notes
    return replace(booted, facts={**facts, **booted.facts}, notes=notes)
