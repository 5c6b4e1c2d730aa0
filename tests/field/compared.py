"""Compare the quote's registers with the prediction, event by event, and name the line of the platform to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.field.record import DIFFERS, PREDICTED, UNKNOWN, Register

from privml.base.errors import EvidenceError, RecipeError
from privml.events.agent import digests, parse_log
from privml.events.registers import MRTD, RTMR3, TDX_REGISTERS
from privml.events.replay import replay_digests
from privml.evidence.document import Document
from privml.evidence.tdx import quote
from privml.measure.compare import Difference, compare
from privml.measure.firmware import FirmwareFacts
from privml.readers import log as logs
from privml.recipe import document as recipes
from privml.recipe.loader import label
from privml.statement.launch import MeasuredLaunch

# What decides an event, by the beginning of its origin: the platform's field, and what to do.
_QEMU = "learn this QEMU and its arguments: `privml-build platform learn`"
_CHANGES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("TD HOB",), "machine", f"the TD has other memory than was predicted; {_QEMU}"),
    (("BootMenu", "bootorder"), "devices", f"the host set a boot menu or a boot order; {_QEMU}"),
    (("etc/table-loader", "etc/acpi/"), "vmm", f"other ACPI tables: QEMU, devices or address bits; {_QEMU}"),
    (
        ("etc/smbios/smbios-tables type 1",),
        "uuid",
        f"QEMU was given a UUID or serial number: leave it out, or {_QEMU}",
    ),
    (("etc/smbios/",), "identity", "another CPU identity in SMBIOS: family, model and stepping of the host's CPU"),
    (("firmware.fd", "firmware:"), "firmware", "another firmware file, or keys in its variables"),
)
_ORDER = ("vmm", "this host adds pages in the other order: set `page_order` in vmm, or `platform learn --page-order`")
_FIRMWARE = ("firmware", "MRTD is another firmware's: the one that runs is not the image's firmware.fd")
_HOST = "not a platform's line: the host gave the guest something (see the difference)"
_NO_LOG = "without a log the event cannot be named: look at the memory size and at QEMU's arguments first"
_AGENT = "not a platform's line: the guest was not ready, or something else extended RTMR3"


def judge(
    found: Document, launch: MeasuredLaunch, firmware: FirmwareFacts, platform: Path, *, simulated: bool
) -> tuple[Register, ...]:
    """Every register of the quote in ``found``, compared with ``launch``; ``platform`` is the platform's file.

    A simulated guest has a TPM's log, which stands for a TD's.
    """
    body = quote.read(found.evidence).body
    quoted = {MRTD: body.mr_td, **dict(zip(TDX_REGISTERS[1:], body.rtmrs, strict=True))}
    rows = []
    for name in TDX_REGISTERS:
        accepted = launch.accepted(name)
        row = Register(name, UNKNOWN, quoted[name].hex(), tuple(value.hex() for value in accepted))
        if quoted[name] in accepted:
            rows.append(replace(row, verdict=PREDICTED))
        elif name == MRTD:
            other = quoted[name] in (firmware.mrtd_single, firmware.mrtd_two)
            rows.append(_differs(row, None, "", platform, *(_ORDER if other else _FIRMWARE)))
        elif name == RTMR3:
            agent = replay_digests(digests(parse_log(found.eventlog)))
            said = "the agent's log replays to it" if agent == quoted[name] else "it is not the agent's log's"
            rows.append(_differs(row, None, said, platform, "", _AGENT))
        else:
            rows.append(_logged(row, launch, found, platform, simulated=simulated))
    return tuple(rows)


def _logged(row: Register, launch: MeasuredLaunch, found: Document, platform: Path, *, simulated: bool) -> Register:
    try:
        log = logs.read(found.bootlog)
    except EvidenceError as error:
        return _differs(row, None, f"no log to look for the event: {error.message}", platform, "", _NO_LOG)
    if log.registers().get(row.name, b"").hex() != row.quoted:
        return _differs(row, None, "the log does not replay to the quote's value", platform, "", _HOST)
    comparison = compare(launch.events, log.entries, tpm=simulated, registers=(row.name,))
    first = comparison.differences[0]
    field, advice = change_of(first)
    return _differs(row, first.position, first.text(), platform, field, advice)


def change_of(difference: Difference) -> tuple[str, str]:
    """The platform's field that decides a difference, and what to do; no field if it is not the platform's."""
    origin = difference.predicted.origin if difference.predicted is not None else ""
    for beginnings, field, advice in _CHANGES:
        if origin.startswith(beginnings):
            return field, advice
    if difference.known is not None and difference.known.id == "boot-options":
        return "devices", f"other disks, cards or slots; {_QEMU}"
    return "", _HOST


def _differs(row: Register, event: int | None, said: str, platform: Path, field: str, advice: str) -> Register:
    change = f"{line_of(platform, field)}: {advice}" if field else advice
    return replace(row, verdict=DIFFERS, event=event, difference=said[:1900], change=change[:1900])


def line_of(platform: Path, field: str) -> str:
    """Where ``field`` stands in the platform's file: ``recipes/platforms/x.yaml:6 machine``."""
    name = label(f"platforms/{platform.name}", platform.parent.parent)
    try:
        marks = recipes.parse(platform.read_bytes(), name).marks
    except (OSError, RecipeError):
        return f"{name} {field}"
    return f"{marks[(field,)]} {field}" if (field,) in marks else f"{name} {field} (not there yet)"
