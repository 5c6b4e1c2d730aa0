"""Compare two files by their events, and a log with the register values that a quote or report has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.base.errors import UsageError
from privml.events.registers import MRTD, RTMR3, RTMRS
from privml.readers.changes import Change, Item, changes, nearest, one_change
from privml.readers.files import File, Log
from privml.statement.launch import MeasuredLaunch, TdMachine

FIRMWARE_REGISTERS = RTMRS[:3]
"""The registers that a firmware's log accounts for; RTMR3 belongs to the software in the TD."""


# --- two files, as `diff` compares them ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One comparison of two files: of one shape that both predict, or of their logs.

    ``only_in`` is the file that alone has the shape; nothing is compared then.
    """

    label: str
    changes: tuple[Change, ...] = ()
    mrtd_equal: bool = True
    only_in: Path | None = None

    @property
    def equal(self) -> bool:
        """True when both sides are there and nothing differs."""
        return self.only_in is None and self.mrtd_equal and not self.changes

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; ``a`` and ``b`` of each difference are the two files."""
        return {
            "shape": self.label,
            "only_in": None if self.only_in is None else str(self.only_in),
            "mrtd_equal": self.mrtd_equal,
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
    return tuple(_pairs(left, right))


def _pairs(left: File, right: File) -> Iterator[Pair]:
    if left.shapes and right.shapes:
        ours, theirs = ({_key(shape): shape for shape in file.shapes} for file in (left, right))
        for key in dict.fromkeys([*ours, *theirs]):
            one, other = ours.get(key), theirs.get(key)
            if one is not None and other is not None:
                found = tuple(changes(one.events, other.events, RTMRS))
                yield Pair(one.label, found, mrtd_equal=one.registers[MRTD] == other.registers[MRTD])
            elif one is not None:
                yield Pair(one.label, only_in=left.path)
            elif other is not None:
                yield Pair(other.label, only_in=right.path)
    elif left.shapes:
        shape = nearest(left.shapes, right.description.events)
        yield Pair(shape.label, tuple(changes(shape.events, right.items(), FIRMWARE_REGISTERS)))
    elif right.shapes:
        shape = nearest(right.shapes, left.description.events)
        yield Pair(shape.label, tuple(changes(left.items(), shape.events, FIRMWARE_REGISTERS)))
    else:
        yield Pair("event logs", tuple(changes(left.items(), right.items(), RTMRS)))


def _key(shape: MeasuredLaunch) -> tuple[str, str, TdMachine]:
    return shape.tee, shape.platform, shape.machine


# --- a log against values or events, as `explain` compares them ---------------------------------------------------


@dataclass(frozen=True)
class RegisterCheck:
    """One register of a quote or report against the log; ``change`` is the one change that would make them agree."""

    register: str
    logged: bytes
    claimed: bytes
    events: int
    change: str | None = None

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
        """True when nothing speaks against the log."""
        return self.equal or self.extended_in_guest

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        row: dict[str, Any] = {"equal": self.equal, "log": self.logged.hex(), "quote": self.claimed.hex()}
        if self.extended_in_guest:
            row["note"] = "extended by software in the TD"
        elif not self.equal:
            row["change"] = self.change
        return row


def with_values(log: Log, claimed: dict[str, bytes]) -> tuple[RegisterCheck, ...]:
    """Replay ``log`` and compare RTMR0..3 with the ``claimed`` values."""
    found = []
    for register, value in log.registers().items():
        events = [event for event in log.logged if event.register == register]
        check = RegisterCheck(register, value, claimed[register], len(events))
        found.append(check if check.agrees else replace(check, change=one_change(events, check.claimed)))
    return tuple(found)


@dataclass(frozen=True)
class EventCheck:
    """A log against another file's events; ``shape`` is the nearest of a prediction, None for another log."""

    shape: MeasuredLaunch | None
    expected: Sequence[Item]
    changes: tuple[Change, ...]

    def of(self, register: str) -> list[Change]:
        """The changes of one register."""
        return [change for change in self.changes if change.register == register]

    def count(self, register: str) -> int:
        """How many events the other file has for a register."""
        return sum(event.register == register for event in self.expected)


def with_events(file: File, other: File) -> EventCheck:
    """Compare the events of the log ``file`` with the nearest shape of a prediction, or with another log."""
    shape = nearest(other.shapes, file.description.events) if other.shapes else None
    expected: Sequence[Item] = other.items() if shape is None else shape.events
    return EventCheck(shape, expected, tuple(changes(expected, file.items(), FIRMWARE_REGISTERS)))
