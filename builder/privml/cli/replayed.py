"""Why a register is what it is: a log against a quote's values, and two lists of events against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from privml.cli.files import File
from privml.events.event import Event
from privml.events.registers import Register
from privml.events.replay import extend, replay_digests
from privml.events.tcg import LogEntry
from privml.events.types import EV_EFI_VARIABLE_BOOT, EV_SEPARATOR, type_name
from privml.measure.compare import KnownDifference, align, known
from privml.statement.predicate import MeasuredShape

_SEPARATOR = hashlib.sha384(bytes(4)).digest()
_MAX_TRIED = 1024


@dataclass(frozen=True)
class Change:
    """One event that two lists do not share; ``position`` is where it stands among the second's of the register."""

    register: Register
    position: int
    left: Event | None
    right: Event | None
    known: KnownDifference | None

    def text(self, names: tuple[str, str]) -> str:
        """One line for a person; ``names`` say whose events they are."""
        parts = [f"{self.register.name.lower()} event {self.position}"]
        for name, event in zip(names, (self.left, self.right), strict=True):
            parts.append(f"{name}: {words(event)}" if event is not None else f"{name}: nothing")
        if self.known is not None:
            parts.append(f"[{self.known.id}] {self.known.meaning}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; ``a`` and ``b`` are the two sides."""
        return {
            "register": self.register.name.lower(),
            "position": self.position,
            "a": self.left.to_dict() if self.left else None,
            "b": self.right.to_dict() if self.right else None,
            "known": self.known.id if self.known else None,
        }


def words(event: Event) -> str:
    """Type, where it is from, what it says, and the beginning of its digest."""
    note = f" ({event.note})" if event.note else ""
    return f"{type_name(event.type)} {event.digest.hex()[:16]}.. {event.origin}{note}"


def changes(
    left: Sequence[Event], right: Sequence[Event], registers: Sequence[Register], entry: Callable[[Event], LogEntry]
) -> list[Change]:
    """The events that the two lists do not share, register by register.

    ``entry`` makes the log's entry of an event on the right, by which a known difference gets its name.
    """
    found: list[Change] = []
    for register in registers:
        ours = [event for event in left if event.register is register]
        theirs = [event for event in right if event.register is register]
        rows = [[(event.type, event.digest) for event in side] for side in (ours, theirs)]
        for a, b, position in align(*rows):
            one = None if a is None else ours[a]
            other = None if b is None else theirs[b]
            if one is not None and other is not None and one.digest == other.digest:
                continue
            name = known(one, entry(other) if other is not None else None)
            found.append(Change(register, position, one, other, name))
    return found


def entry_maker(file: File) -> Callable[[Event], LogEntry]:
    """What ``changes`` needs of the file on the right: its log's own entries, or entries without data."""
    if file.log is None:
        return lambda event: LogEntry(int(event.register), event.type, {0x0C: event.digest}, b"")
    by_number = dict(enumerate(file.log.entries, 1))
    return lambda event: by_number[int(event.origin.removeprefix("log record "))]


def nearest(shapes: Sequence[MeasuredShape], events: Sequence[Event]) -> MeasuredShape:
    """The shape whose events have most in common with ``events``."""
    digests = {(event.register, event.digest) for event in events}
    return max(
        shapes,
        key=lambda shape: sum((event.register, event.digest) in digests for event in shape.events),
    )


# --- one change that makes a log replay to a value ----------------------------------------------------------------


def one_change(events: Sequence[Event], entries: Sequence[LogEntry], value: bytes) -> str | None:
    """In words, the one change to a register's ``events`` after which they replay to ``value``; None when none does.

    Tried: the log goes on after the quote was taken, one event left out, one separator added, one digest replaced by
    that of the event's own data. ``entries`` are the log's, one for each event.
    """
    if len(events) > _MAX_TRIED:
        return None
    digests = [event.digest for event in events]
    before = [replay_digests(())]
    for digest in digests:
        before.append(extend(before[-1], digest))
    for count in range(len(events)):
        if before[count] == value:
            rest = len(events) - count
            first = words(events[count])
            return f"the value is that before the last {rest} events, from {first}"

    def rest_of(state: bytes, following: int) -> bytes:
        for digest in digests[following:]:
            state = extend(state, digest)
        return state

    for at, event in enumerate(events):
        if rest_of(before[at], at + 1) == value:
            return f"the value is that without event {at + 1}: {words(event)}"
        own = hashlib.sha384(_hashed(entries[at])).digest()
        if own != event.digest and rest_of(extend(before[at], own), at + 1) == value:
            return f"event {at + 1} was extended with the digest of its data, which is another: {words(event)}"
    for at in range(len(events) + 1):
        if rest_of(extend(before[at], _SEPARATOR), at) == value:
            return f"the value has a separator ({type_name(EV_SEPARATOR)}) more, before event {at + 1}"
    return None


def _hashed(entry: LogEntry) -> bytes:
    """The part of an event's data that its digest is of: a boot variable's value, else all of it."""
    data = entry.data
    if entry.type == EV_EFI_VARIABLE_BOOT and len(data) >= 32:
        return data[32 + 2 * int.from_bytes(data[16:24], "little") :]
    return data
