"""Compare two files event by event, and a log with the register values of a quote or report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from privml.base.errors import UsageError
from privml.events.registers import LAUNCH, MRTD, RTMR2, RTMR3, RTMRS, ZERO
from privml.readers.changes import EventChange, Item, changes, nearest, one_change, other_digests, unproven
from privml.readers.file import File
from privml.readers.log import NOTHING_IN_RTMR2, Log
from privml.statement.launch import Machine, MeasuredLaunch, SnpMachine

FIRMWARE_REGISTERS = RTMRS[:3]
"""The registers that a firmware's log accounts for; RTMR3 belongs to the software in the TD."""


# --- two files, as `diff` compares them ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One comparison of two files: a shape that both predict, or their logs.

    ``only_in`` is the file that alone has the shape; nothing is compared then. ``fields`` are the fields of the two
    machines of SNP guests that differ, each with both values.
    """

    label: str
    changes: tuple[EventChange, ...] = ()
    mrtd_equal: bool = True
    only_in: Path | None = None
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """True when both sides are there and nothing differs."""
        return self.only_in is None and self.mrtd_equal and not self.changes and not self.fields

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; ``a`` and ``b`` of each difference are the two files."""
        return {
            "shape": self.label,
            "only_in": None if self.only_in is None else str(self.only_in),
            "mrtd_equal": self.mrtd_equal,
            "machine": {name: {"a": one, "b": other} for name, (one, other) in self.fields.items()},
            "differences": [change.to_dict() for change in self.changes],
        }


def pairs(left: File, right: File) -> tuple[Pair, ...]:
    """Compare two files event by event; ``UsageError`` when one is neither a prediction nor an event log.

    Two predictions are compared for each platform and shape; a log is compared with the nearest shape of a
    prediction, without RTMR3, which firmware does not log.
    """
    for file in (left, right):
        if file.log is None and not file.shapes:
            raise UsageError(f"{file.path} is neither a prediction nor an event log: it is {file.description.title}")
        if file.log is not None and (left.shapes or right.shapes):
            _need_sha384(file.log)
    return tuple(_pairs(left, right))


def _pairs(left: File, right: File) -> Iterator[Pair]:
    if left.shapes and right.shapes:
        ours, theirs = (_by_key(file.shapes) for file in (left, right))
        for key in dict.fromkeys([*ours, *theirs]):
            one, other = ours.get(key), theirs.get(key)
            if one is not None and other is not None:
                found = tuple(changes(one.events, other.events, (*RTMRS, LAUNCH)))
                same = one.registers.get(MRTD) == other.registers.get(MRTD)
                yield Pair(one.label, found, mrtd_equal=same, fields=_fields(one.machine, other.machine))
            elif one is not None:
                yield Pair(one.label, only_in=left.path)
            elif other is not None:
                yield Pair(other.label, only_in=right.path)
    elif left.shapes:
        shape = nearest(_with_logs(left), right.description.events)
        yield Pair(shape.label, tuple(changes(shape.events, right.items(), FIRMWARE_REGISTERS)))
    elif right.shapes:
        shape = nearest(_with_logs(right), left.description.events)
        yield Pair(shape.label, tuple(changes(left.items(), shape.events, FIRMWARE_REGISTERS)))
    elif left.log is not None and right.log is not None:
        yield Pair("event logs", tuple(changes(*_shared(left.log, right.log), RTMRS)))


def _with_logs(file: File) -> list[MeasuredLaunch]:
    """The launches that a log can be compared with; ``UsageError`` if there is none."""
    found = [launch for launch in file.shapes if LAUNCH not in launch.registers]
    if not found:
        raise UsageError(
            f"{file.path} predicts launch digests of SNP guests only, and those have no log",
            hint="compare it with another prediction, or with a report by `explain`",
        )
    return found


def _by_key(shapes: Sequence[MeasuredLaunch]) -> dict[tuple[str, str, Machine | int, int], MeasuredLaunch]:
    """The launches by what two that are compared share. Of an SNP guest's machine that is the number of vCPUs: the
    rest says how the digest was made, so where it differs the steps show what moved. The last part of a key is the
    launch's place among several of one such number.
    """
    found: dict[tuple[str, str, Machine | int, int], MeasuredLaunch] = {}
    for shape in shapes:
        machine = shape.machine
        key = (shape.tee, shape.platform, machine.vcpus if isinstance(machine, SnpMachine) else machine)
        found[*key, sum(other[:3] == key for other in found)] = shape
    return found


def _fields(one: Machine, other: Machine) -> dict[str, tuple[Any, Any]]:
    left, right = one.to_dict(), other.to_dict()
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


# --- a log against values or events, as `explain` compares them ---------------------------------------------------


@dataclass(frozen=True)
class RegisterCheck:
    """One register of a quote or report against the log.

    ``change`` is the one change that would make them agree. When there is none, ``why`` says what is left, and
    ``candidates`` are the positions of the events whose digests the log's own text does not prove.
    """

    register: str
    logged: bytes
    claimed: bytes
    events: int
    change: str | None = None
    why: str = ""
    candidates: tuple[int, ...] = ()

    @property
    def equal(self) -> bool:
        """True when the log replays to the claimed value."""
        return self.logged == self.claimed

    @property
    def extended_in_guest(self) -> bool:
        """True for RTMR3 of a log without events for it: software in the TD extended it, not firmware."""
        return not self.equal and self.register == RTMR3 and not self.events

    @property
    def agrees(self) -> bool:
        """True when the log agrees with the claimed value, or the register is extended in the guest."""
        return self.equal or self.extended_in_guest

    @property
    def note(self) -> str:
        """A remark on a register that agrees; empty when there is none."""
        return NOTHING_IN_RTMR2 if self.equal and self.register == RTMR2 and self.claimed == ZERO else ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        row: dict[str, Any] = {"equal": self.equal, "log": self.logged.hex(), "quote": self.claimed.hex()}
        if self.extended_in_guest:
            row["note"] = "extended by software in the TD"
        elif not self.equal:
            row["change"] = self.change
            row["candidates"] = list(self.candidates)
        if self.note:
            row["note"] = self.note
        return row


def with_values(log: Log, claimed: dict[str, bytes]) -> tuple[RegisterCheck, ...]:
    """Replay ``log`` and compare the registers that it covers with the ``claimed`` values.

    ``UsageError`` when the log has no SHA-384 digests.
    """
    _need_sha384(log)
    found = []
    for register, value in log.registers().items():
        events = [event for event in log.logged if event.register == register]
        check = RegisterCheck(register, value, claimed[register], len(events))
        if not check.agrees:
            change = one_change(events, check.claimed)
            check = replace(check, change=change)
            if change is None:
                check = replace(check, why=other_digests(events), candidates=tuple(unproven(events)))
        found.append(check)
    return tuple(found)


def _need_sha384(log: Log) -> None:
    if not log.replays:
        raise UsageError(
            f"the log has {log.bank_names} digests: registers of a TD are extended with SHA-384, so none of "
            "its events can be compared with them",
            hint="a log with the same bank can be compared: `diff LOG LOG`",
        )


def _shared(left: Log, right: Log) -> tuple[Sequence[Item], Sequence[Item]]:
    """The extends of two logs with digests of the strongest bank that both have."""
    bank = next((bank for bank in left.banks if bank in right.banks), None)
    if bank is None:
        raise UsageError(
            f"the logs share no bank: one has {left.bank_names}, the other {right.bank_names}",
            hint="take both logs with the same bank",
        )
    return left.in_bank(bank), right.in_bank(bank)


@dataclass(frozen=True)
class EventCheck:
    """A log against another file's events; ``shape`` is the nearest of a prediction, None for another log."""

    shape: MeasuredLaunch | None
    expected: Sequence[Item]
    changes: tuple[EventChange, ...]

    def of(self, register: str) -> list[EventChange]:
        """The changes of one register."""
        return [change for change in self.changes if change.register == register]

    def count(self, register: str) -> int:
        """How many events the other file has for a register."""
        return sum(event.register == register for event in self.expected)


def with_events(file: File, other: File) -> EventCheck:
    """Compare the events of the log ``file`` with the nearest shape of a prediction, or with another log."""
    if other.log is not None and file.log is not None and not other.shapes:
        expected, ours = _shared(other.log, file.log)
        return EventCheck(None, expected, tuple(changes(expected, ours, FIRMWARE_REGISTERS)))
    if file.log is not None:
        _need_sha384(file.log)
    shape = nearest(_with_logs(other), file.description.events)
    return EventCheck(shape, shape.events, tuple(changes(shape.events, file.items(), FIRMWARE_REGISTERS)))
