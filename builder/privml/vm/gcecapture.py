"""One capture of a machine of Google: its size and firmware, and the events of RTMR0 that are the machine's own.

A capture is a quote, the log and tables that the quote was made for, and the list of CPUs. Every event of RTMR0 must
have a known meaning. What comes before firmware starts a boot option is the machine's; what the captured image adds
is left out by name, and anything else is refused.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from privml.base.errors import EvidenceError, MeasurementError, printable
from privml.base.sizes import MAX_VCPUS, size_text
from privml.events import tcg, types
from privml.events.logged import LoggedEvent, is_tpm_log, logged
from privml.events.meaning import meaning
from privml.events.registers import RTMR0, RTMR1
from privml.events.replay import replay_digests
from privml.events.wording import describe, proven, variable_parts
from privml.evidence import capture as captures
from privml.evidence.gce import Endorsement
from privml.evidence.tdx import quote
from privml.machine.platform import Size
from privml.measure import dmi, smbios
from privml.measure.bootvars import is_of_firmware
from privml.measure.digest import sha384
from privml.measure.eventlist import CALLING
from privml.measure.learntmachine import MAX_EVENTS, MAX_SMBIOS
from privml.recipe.hardware import MIB, MIN_MEMORY
from privml.vm.gce import MAX_SEPARATORS

MAKER, PRODUCT = "Google", "Google Compute Engine"
_PARTS = (captures.QUOTE, captures.LOG, captures.SMBIOS, captures.CPUS)
_CPUS = re.compile(r"0(?:-([1-9][0-9]{0,4}))?\n?")
_DEBUG = 0xFF
_SEPARATOR = sha384(bytes(4))
_ENABLED = b"\x01"
_MOST_SHOWN = 24
_ACPI = "ACPI file "


class NotLearntError(MeasurementError):
    """Captures from which no platform follows; ``rows`` has a line for each event or value that is in the way."""

    def __init__(self, message: str, rows: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rows = tuple(map(printable, rows))

    @property
    def shown(self) -> tuple[str, ...]:
        """The first rows, and how many are left: whoever made a capture chooses how many there are."""
        left = len(self.rows) - _MOST_SHOWN
        return self.rows if left <= 0 else (*self.rows[:_MOST_SHOWN], f"and {left} more")


@dataclass(frozen=True)
class CapturedEvent:
    """An event of the machine's: ``what`` names it within RTMR0; ``by_size``: it may differ between sizes."""

    event: LoggedEvent
    what: str
    by_size: bool


@dataclass(frozen=True)
class CapturedMachine:
    """What a capture called ``name`` shows of its machine.

    ``sha256`` is the capture's and ``table`` the machine's SMBIOS. ``separators`` are those that follow in RTMR0 and
    RTMR1 once a boot option starts, and ``left_out`` says what the captured image added.
    """

    name: str
    sha256: bytes
    size: Size
    machine: uuid.UUID
    mrtd: bytes
    table: bytes
    rows: tuple[CapturedEvent, ...]
    separators: tuple[int, int]
    left_out: tuple[str, ...]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a name before the message of an error: the refusal's, or the capture's."""
    try:
        yield
    except NotLearntError as error:
        raise NotLearntError(f"{name}: {error.message}", error.rows, hint=error.hint) from error
    except (EvidenceError, MeasurementError) as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error


def read(name: str, data: bytes, endorsement: Endorsement) -> CapturedMachine:
    """The machine of a capture called ``name``; ``MeasurementError`` or ``EvidenceError`` with that name, saying why
    it is not one whose firmware is endorsed, or has an event that is not explained.
    """
    with _named(name):
        return _read(name, data, endorsement)


def _read(name: str, data: bytes, endorsement: Endorsement) -> CapturedMachine:
    with _named("capture-form"):
        archive = captures.decode(data)
    absent = [part for part in _PARTS if part not in archive.files]
    if absent:
        why = "; ".join(f"{part}: {archive.missing.get(part, 'not in it')}" for part in absent)
        raise EvidenceError(
            f"capture-parts: {why}, expected {', '.join(_PARTS)}", hint="capture as root, and leave nothing out"
        )
    with _named("capture-quote"):
        body = quote.parse(archive.files[captures.QUOTE]).body
    if body.report_data != archive.report_data():
        raise EvidenceError(
            "capture-binding: the quote was made for something other than these parts",
            hint="make the capture with `privml-build capture`, and change nothing in it",
        )
    if body.td_attributes[0] & _DEBUG:
        raise EvidenceError(f"capture-debug: TD attributes {body.td_attributes.hex()}: the host can read this TD")
    events = _events_of(archive.files[captures.LOG], body.rtmrs)
    table = archive.files[captures.SMBIOS]
    size, machine = _machine(table, archive.files[captures.CPUS])
    if endorsement.of(body.mr_td, size.memory) is None:
        raise NotLearntError(
            f"capture-mrtd: {body.mr_td.hex()} with {size_text(size.memory)}, expected one that is endorsed for it",
            [f"endorsed: {one}" for one in endorsement.values],
            hint="get the endorsement from Google under this MRTD",
        )
    rows, separators, left_out = _rows(events, table)
    return CapturedMachine(
        name, hashlib.sha256(data).digest(), size, machine, body.mr_td, table, rows, separators, left_out
    )


def _events_of(data: bytes, quoted: Sequence[bytes]) -> tuple[LoggedEvent, ...]:
    """The extends of a captured log, whose RTMR0 and RTMR1 are those of the quote."""
    with _named("capture-log"):
        entries = tuple(tcg.parse_log(data))
        events = () if is_tpm_log(entries) else logged(entries, tpm=False)
    if not events:
        raise EvidenceError("capture-log: the log is a TPM's, or empty, expected a TD's")
    for register, value in zip((RTMR0, RTMR1), quoted, strict=False):
        replayed = replay_digests(one.digest for one in events if one.register == register)
        if replayed != value:
            raise EvidenceError(
                f"capture-log: {register.upper()} of the log is {replayed.hex()}, of the quote {value.hex()}"
            )
    return events


def _machine(table: bytes, cpus: bytes) -> tuple[Size, uuid.UUID]:
    with _named("capture-machine"):
        maker, product, machine = dmi.system(table)
        memory = dmi.memory(table)
    if (maker, product) != (MAKER, PRODUCT):
        raise MeasurementError(
            f"capture-machine: SMBIOS names `{maker}` `{product}`, expected `{MAKER}` `{PRODUCT}`",
            hint="a machine of a QEMU is learnt from its command line",
        )
    if any(table[start] == smbios.TYPE_OEM_STRINGS for start, _, _ in smbios.structures(table)):
        raise MeasurementError(
            "capture-oem: SMBIOS has OEM strings (type 11), which can carry a command line for systemd-stub"
        )
    if len(dmi.for_stub(table)) > MAX_SMBIOS:
        raise MeasurementError(f"capture-machine: SMBIOS types 1 and 2 have more than {MAX_SMBIOS} bytes")
    count = _CPUS.fullmatch(cpus.decode("ascii", "replace"))
    vcpus = int(count[1] or 0) + 1 if count is not None else 0
    if not 1 <= vcpus <= MAX_VCPUS:
        raise MeasurementError(f"capture-size: CPUs {cpus[:40]!r}, expected 0 to N-1, at most {MAX_VCPUS}")
    if memory < MIN_MEMORY or memory % MIB:
        raise MeasurementError(
            f"capture-size: memory of {size_text(memory)}, expected whole MiB and at least {size_text(MIN_MEMORY)}"
        )
    return Size(vcpus, memory), machine


def _rows(
    events: Sequence[LoggedEvent], table: bytes
) -> tuple[tuple[CapturedEvent, ...], tuple[int, int], tuple[str, ...]]:
    """The machine's events of RTMR0, the separators in RTMR0 and RTMR1, and what the captured image added."""
    of_stub = {sha384(data): kind for kind, data in smbios.stub_structures(table)}
    rows: list[CapturedEvent] = []
    left_out: list[str] = []
    problems: list[str] = []
    extra = 0
    first = [each for each in events if each.register == RTMR0]
    if len(first) > MAX_EVENTS:
        raise MeasurementError(f"capture-events: {len(first)} events of RTMR0, expected at most {MAX_EVENTS}")
    for one in first:
        row, why = _row(one, sum(each.what.startswith(_ACPI) for each in rows))
        separator = _is_separator(one)
        if separator and not any(each.event.type == types.EV_SEPARATOR for each in rows):
            row = CapturedEvent(one, "separator after the Secure Boot variables", by_size=False)
        if row is not None and not (extra or left_out):
            rows.append(row)
        elif row is not None:
            problems.append(f"{_place(one)}: it comes after what is measured when a boot option starts")
        elif separator and not left_out:
            extra += 1
        elif one.type == types.EV_EFI_VARIABLE_AUTHORITY:
            left_out.append(f"{describe(one.entry)}, by its boot loader")
        elif one.type in (types.EV_IPL, types.EV_EVENT_TAG) and one.digest in of_stub:
            left_out.append(f"SMBIOS type {of_stub[one.digest]}, by its systemd-stub")
        else:
            problems.append(f"{_place(one)}: {why or 'its meaning is not known'}")
    after, why = _started([each for each in events if each.register == RTMR1])
    problems += [why] if why else []
    if max(extra, after) > MAX_SEPARATORS:
        problems.append(f"{extra} and {after} separators, expected at most {MAX_SEPARATORS}")
    if problems:
        raise NotLearntError(
            f"capture-events: {len(problems)} events are not explained",
            problems,
            hint="capture a machine at its first boot from a stock image: what is not understood is not learnt",
        )
    return tuple(rows), (extra, after), tuple(left_out)


def _place(one: LoggedEvent) -> str:
    return f"record {one.number}, {describe(one.entry)}"


def _started(events: Sequence[LoggedEvent]) -> tuple[int, str]:
    """How many separators of RTMR1 follow the start of a boot option, and what is wrong with its beginning."""
    if not events or events[0].digest != sha384(CALLING):
        shown = _place(events[0]) if events else "nothing"
        return 0, f"RTMR1 begins with {shown}, expected the start of a boot option, `{CALLING.decode()}`"
    return sum(1 for _ in takewhile(_is_separator, events[1:])), ""


def _is_separator(one: LoggedEvent) -> bool:
    return one.type == types.EV_SEPARATOR and one.digest == _SEPARATOR


def _row(one: LoggedEvent, acpi_files: int) -> tuple[CapturedEvent | None, str]:
    """The row of an event of the machine's, or None and why it is not one."""
    entry = one.entry
    about = meaning(entry)
    known = about.id if about is not None else ""
    if known in ("variables", "boot-options"):
        return _variable(one)
    if known == "memory-layout":
        return CapturedEvent(one, "TD HOB", by_size=True), ""
    if known in ("variable-volume", "firmware-volume"):
        return CapturedEvent(one, "the firmware's volume of variables (CFV)", by_size=False), ""
    if known == "acpi-tables":
        return CapturedEvent(one, f"{_ACPI}{acpi_files + 1}", by_size=True), ""
    if known == "smbios-table":
        return CapturedEvent(one, "SMBIOS table, filtered", by_size=True), ""
    return None, ""


def _variable(one: LoggedEvent) -> tuple[CapturedEvent | None, str]:
    parts = variable_parts(one.entry.data)
    if parts is None or not proven(one.entry):
        return None, "the digest is not that of the variable in the log"
    _, variable, value = parts
    if variable == "SecureBoot" and value == _ENABLED:
        return None, (
            "secure-boot: Secure Boot is on, with which firmware starts no UKI of ours, since these have no signature"
        )
    boot_option = one.type in (types.EV_EFI_VARIABLE_BOOT, types.EV_EFI_VARIABLE_BOOT2)
    if boot_option and variable != "BootOrder" and not is_of_firmware(value):
        return None, "an installed system added this boot option, which is not there with another disk"
    if not variable.isprintable() or len(variable) > 64:
        return None, "the variable's name cannot be shown"
    return CapturedEvent(one, f"variable {variable}", by_size=boot_option), ""
