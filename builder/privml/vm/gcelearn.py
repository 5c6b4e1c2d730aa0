"""Learn a platform from captures of machines of Google and the endorsement of their firmware.

Every event of RTMR0 must have a known meaning. What firmware extends before it starts a boot option is the machine's
and is learnt; what the captured image adds is left out, since an image of ours adds something else. Machines of one
size must show the same; between sizes only those events may differ whose meaning depends on the size.
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
from privml.base.times import time_text
from privml.events import tcg, types
from privml.events.logged import LoggedEvent, is_tpm_log, logged
from privml.events.meaning import meaning
from privml.events.registers import MRTD, RTMR0, RTMR1
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
from privml.measure.learntmachine import MAX_EVENTS, MAX_SMBIOS, LearntEvent, LearntMachine
from privml.recipe import document
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.hardware import MIB, MIN_MEMORY
from privml.recipe.section import MEMORY_UNITS
from privml.recipe.validation import validate
from privml.vm.gce import FEWEST_MACHINES, MAX_MACHINES, MAX_SEPARATORS, GceMachines

MAKER, PRODUCT = "Google", "Google Compute Engine"
_PARTS = (captures.QUOTE, captures.LOG, captures.SMBIOS, captures.CPUS)
_CPUS = re.compile(r"0(?:-([1-9][0-9]{0,4}))?\n?")
_DEBUG = 0xFF
_SEPARATOR = sha384(bytes(4))
_ENABLED = b"\x01"
_MOST_SHOWN = 24
_ACPI = "ACPI file "
_KEYS = frozenset({"variable PK", "variable KEK", "variable db", "variable dbx"})


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
class _Row:
    """An event of the machine's: ``what`` names it within RTMR0; ``by_size``: it may differ between sizes."""

    event: LoggedEvent
    what: str
    by_size: bool


@dataclass(frozen=True)
class _Captured:
    name: str
    sha256: bytes
    size: Size
    machine: uuid.UUID
    mrtd: bytes
    table: bytes
    rows: tuple[_Row, ...]
    separators: tuple[int, int]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class LearntGce:
    """A platform's file as ``text``, the object with its ``machines``, and what its user must know."""

    file: GcePlatformFile
    text: str
    machines: bytes
    notes: tuple[str, ...]


def learn(name: str, endorsement: Endorsement, archives: Sequence[tuple[str, bytes]]) -> LearntGce:
    """Learn from captures, each with its file's name; ``MeasurementError`` or ``EvidenceError`` naming why not."""
    if not FEWEST_MACHINES <= len(archives) <= MAX_MACHINES:
        raise MeasurementError(
            f"capture-count: got {len(archives)}, expected {FEWEST_MACHINES} to {MAX_MACHINES} of different machines",
            hint="one machine does not show which events are its own: `privml-build capture` in another one",
        )
    found = []
    for label, data in archives:
        with _named(label):
            found.append(_read(label, data, endorsement))
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.machine == other.machine:
                raise MeasurementError(
                    f"capture-twice: {other.name} and {one.name} are of one machine, UUID {one.machine}",
                    hint="capture another machine",
                )
    found.sort(key=lambda one: (one.size.vcpus, one.size.memory, one.sha256))
    _compare(found)
    machines = tuple(
        LearntMachine(
            one.size.vcpus, one.size.memory, one.mrtd, dmi.for_stub(one.table), one.sha256, _events(one, found)
        )
        for one in found
    )
    learnt = GceMachines(endorsement, found[0].separators, machines)
    data = learnt.encoded()
    text = _text(name, learnt, data)
    return LearntGce(
        validate(document.parse(text.encode(), f"{name}.yaml"), GcePlatformFile), text, data, _notes(learnt, found)
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a name before the message of an error: the refusal's, or the capture's."""
    try:
        yield
    except NotLearntError as error:
        raise NotLearntError(f"{name}: {error.message}", error.rows, hint=error.hint) from error
    except (EvidenceError, MeasurementError) as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error


def _read(name: str, data: bytes, endorsement: Endorsement) -> _Captured:
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
    return _Captured(
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


def _rows(events: Sequence[LoggedEvent], table: bytes) -> tuple[tuple[_Row, ...], tuple[int, int], tuple[str, ...]]:
    """The machine's events of RTMR0, the separators in RTMR0 and RTMR1, and what the captured image added."""
    of_stub = {sha384(data): kind for kind, data in smbios.stub_structures(table)}
    rows: list[_Row] = []
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
            row = _Row(one, "separator after the Secure Boot variables", by_size=False)
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


def _row(one: LoggedEvent, acpi_files: int) -> tuple[_Row | None, str]:
    """The row of an event of the machine's, or None and why it is not one."""
    entry = one.entry
    about = meaning(entry)
    known = about.id if about is not None else ""
    if known in ("variables", "boot-options"):
        return _variable(one)
    if known == "memory-layout":
        return _Row(one, "TD HOB", by_size=True), ""
    if known in ("variable-volume", "firmware-volume"):
        return _Row(one, "the firmware's volume of variables (CFV)", by_size=False), ""
    if known == "acpi-tables":
        return _Row(one, f"{_ACPI}{acpi_files + 1}", by_size=True), ""
    if known == "smbios-table":
        return _Row(one, "SMBIOS table, filtered", by_size=True), ""
    return None, ""


def _variable(one: LoggedEvent) -> tuple[_Row | None, str]:
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
    return _Row(one, f"variable {variable}", by_size=boot_option), ""


def _compare(found: Sequence[_Captured]) -> None:
    """``MeasurementError`` listing every event that differs where it must not."""
    problems: list[str] = []
    first = found[0]
    for one in found[1:]:
        if one.separators != first.separators:
            problems.append(f"separators: {first.name} has {first.separators}, {one.name} {one.separators}")
    for number, one in enumerate(found):
        same = next((other for other in found[:number] if other.size == one.size), None)
        if same is not None:
            if same.mrtd != one.mrtd:
                problems.append(f"{MRTD.upper()}: {same.name} has {same.mrtd.hex()}, {one.name} {one.mrtd.hex()}")
            problems += _differing(same, one, same.rows, one.rows, f"both have {one.size}")
        elif number:
            problems += _differing(
                first,
                one,
                [row for row in first.rows if not row.by_size],
                [row for row in one.rows if not row.by_size],
                "it does not depend on the machine's size",
            )
    if problems:
        raise NotLearntError(
            f"capture-differs: {len(problems)} events are not the same",
            problems,
            hint="capture machines with the same firmware, disks, network cards and UEFI settings",
        )


def _differing(a: _Captured, b: _Captured, left: Sequence[_Row], right: Sequence[_Row], why: str) -> list[str]:
    names = ([row.what for row in left], [row.what for row in right])
    if names[0] != names[1]:
        return [f"{a.name} has {', '.join(names[0])}; {b.name} has {', '.join(names[1])}: {why}"]
    return [
        f"{x.what}: {a.name} has {x.event.digest.hex()}, {b.name} {y.event.digest.hex()}: {why}"
        for x, y in zip(left, right, strict=True)
        if (x.event.type, x.event.digest) != (y.event.type, y.event.digest)
    ]


def _events(one: _Captured, found: Sequence[_Captured]) -> tuple[LearntEvent, ...]:
    shown = [{(row.what, row.event.digest) for row in each.rows} for each in found]
    return tuple(
        LearntEvent(
            row.event.type,
            row.event.digest,
            row.what,
            sum((row.what, row.event.digest) in each for each in shown),
            len(found),
        )
        for row in one.rows
    )


def _notes(learnt: GceMachines, found: Sequence[_Captured]) -> tuple[str, ...]:
    notes = [
        "SMBIOS types 1 and 2 have the machine's serial number and UUID, and systemd-stub measures them into RTMR0: "
        "only these machines are predicted, not others of their size",
    ]
    for size in learnt.sizes:
        alone = [one for one in found if one.size == size]
        if len(alone) == 1:
            own = [row.what for row in _events(alone[0], found) if row.seen == 1]
            if own:
                notes.append(f"{size}: only {alone[0].name} shows {', '.join(own)}")
    if any(row.what in _KEYS for row in found[0].rows):
        notes.append("PK, KEK, db and dbx are the UEFI settings of the captured images: import yours with the same")
    added: dict[str, list[str]] = {}
    for one in found:
        for text in one.left_out:
            added.setdefault(text, []).append(one.name)
    notes += [
        f"left out, because the captured image added it: {text} ({', '.join(of)})" for text, of in added.items()
    ]
    return tuple(notes)


def _text(name: str, learnt: GceMachines, data: bytes) -> str:
    endorsed = learnt.endorsement
    sizes = ", ".join(map(str, learnt.sizes[:8]))
    rows = "".join(
        f"  - {{vcpus: {one.vcpus}, memory: {size_text(one.memory, MEMORY_UNITS)}}}\n" for one in learnt.sizes
    )
    described = f"{len(learnt.machines)} machines of Google Compute Engine, {sizes}."
    return (
        "# Learnt by `privml-build platform learn`: its machines are an object of the store, and of pools.\n"
        f'schema: 2\nname: {name}\ndescription: "{described}"\ntee: tdx\nvmm: {{kind: gce}}\nfirmware:\n'
        f'  sha384: "{endorsed.firmware_sha384.hex()}"\n  svn: {endorsed.svn}\n'
        f'  endorsed_until: "{time_text(endorsed.valid_until)}"\n'
        f"registers: {{mrtd: endorsement, rtmr0: captures}}\nsizes:\n{rows}"
        f'tables: {{sha256: "{hashlib.sha256(data).hexdigest()}", size: {len(data)}}}\n'
    )
