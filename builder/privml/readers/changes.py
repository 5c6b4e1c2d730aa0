"""Explain a register's value: the events that two lists do not share, and a single change that gives the value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privml.events.align import differences
from privml.events.event import Event
from privml.events.logged import LoggedEvent
from privml.events.meaning import meaning, shows_uki
from privml.events.registers import LAUNCH, ZERO, index_of_register
from privml.events.replay import extend, replay_digests
from privml.events.tcg import ALG_SHA384, LogEntry, bank_name
from privml.events.types import EV_SEPARATOR, type_name
from privml.events.wording import as_event, describe, difference_line, explain_event, hashed, proven
from privml.measure.compare import KnownDifference, known
from privml.readers import launchsteps
from privml.statement.launch import MeasuredLaunch

Item = Event | LoggedEvent
"""What is compared: a predicted event, or a log's."""

_SEPARATOR = hashlib.sha384(bytes(4)).digest()
_MAX_TRIED = 1024
_NEAR = 8  # how many events the length of a log, which its host chooses, may make a line cost


@dataclass(frozen=True)
class EventChange:
    """One event that two lists do not share; ``position`` counts the second list's events of the register."""

    register: str
    position: int
    left: Item | None
    right: Item | None
    known: KnownDifference | None

    def text(self, names: tuple[str, str], near: Sequence[EventChange] = ()) -> str:
        """One line for a person; ``names`` say whose events they are, ``near`` holds the other changes."""
        if self.register == LAUNCH:
            left, right = (one if isinstance(one, Event) else None for one in (self.left, self.right))
            return launchsteps.line(left, right, names)
        others = [one.left for one in near if one.left is not None and one.register == self.register][:_NEAR]
        line = difference_line(self.register, self.position, self.left, self.right, names, others)
        return line if self.known is None else f"{line}; [{self.known.id}] {self.known.meaning}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; ``a`` and ``b`` are the two sides."""
        return {
            "register": self.register,
            "position": self.position,
            "a": _to_dict(self.left) if self.left else None,
            "b": _to_dict(self.right) if self.right else None,
            "known": self.known.id if self.known else None,
        }


def changes(left: Sequence[Item], right: Sequence[Item], registers: Sequence[str]) -> list[EventChange]:
    """The events that the two lists do not share, register by register."""
    found: list[EventChange] = []
    uki = shows_uki(event.entry for event in (*left, *right) if isinstance(event, LoggedEvent))
    for register in registers:
        ours = [event for event in left if event.register == register]
        theirs = [event for event in right if event.register == register]
        if register == LAUNCH:
            steps = launchsteps.moved(*([one for one in side if isinstance(one, Event)] for side in (ours, theirs)))
            found += [EventChange(register, position, one, other, None) for one, other, position in steps]
            continue
        for one, other, position in differences(ours, theirs):
            found.append(EventChange(register, position, one, other, _name(one, other, uki=uki)))
    return found


def _name(one: Item | None, other: Item | None, *, uki: bool) -> KnownDifference | None:
    """The known cause of a difference: by the rules for UKIs if one was booted, else by the subject of the event."""
    if isinstance(one, Event) or isinstance(other, Event):
        return known(*_for_rules(one, other))
    if uki and all(side is None or side.bank == ALG_SHA384 for side in (one, other)):
        named = known(*_for_rules(one, other))
        if named is not None:
            return named
    present = [side.entry for side in (one, other) if side is not None]
    about = meaning(present[0])
    if about is None or (len(present) == 2 and meaning(present[1]) != about):
        return None
    return KnownDifference(
        about.id, f"{about.what} {'differs' if len(present) == 2 else 'is in one of them only'}", ""
    )


def _for_rules(one: Item | None, other: Item | None) -> tuple[Event | None, LogEntry | None]:
    """The two sides as `compare.known` takes them: a prediction's event and a log's record, whichever side it is."""
    if isinstance(one, LoggedEvent) and not isinstance(other, LoggedEvent):
        one, other = other, one
    event = None if one is None else _event(one)
    if isinstance(other, Event):
        return event, LogEntry(index_of_register(other.register), other.type, {ALG_SHA384: other.digest}, b"")
    return event, None if other is None else other.entry


def _event(item: Item) -> Event:
    return as_event(item) if isinstance(item, LoggedEvent) else item


def _to_dict(item: Item) -> dict[str, Any]:
    if isinstance(item, Event) or item.bank == ALG_SHA384:
        return _event(item).to_dict()
    return {
        "register": item.register,
        "type": item.type,
        "bank": bank_name(item.bank),
        "digest": item.digest.hex(),
        "origin": f"log record {item.number}",
        "note": explain_event(item.entry),
    }


def nearest(shapes: Sequence[MeasuredLaunch], events: Sequence[Item]) -> MeasuredLaunch:
    """The shape that shares the most events with ``events``."""
    digests = {(event.register, event.digest) for event in events}
    return max(
        shapes,
        key=lambda shape: sum((event.register, event.digest) in digests for event in shape.events),
    )


# --- one change that makes a log replay to a value ----------------------------------------------------------------


def one_change(events: Sequence[LoggedEvent], value: bytes) -> str | None:
    """Describe the one change to a register's ``events`` after which they replay to ``value``; None when none does.

    Tried: the log goes on after the quote was taken, one event left out, there twice, or in its neighbour's place,
    one separator added, one digest replaced by that of the event's own data.
    """
    if len(events) > _MAX_TRIED:
        return None
    if events and value == ZERO:
        return "the value is zero: nothing extended the register, so the log is not this machine's"
    digests = [event.digest for event in events]
    before = [replay_digests(())]
    for digest in digests:
        before.append(extend(before[-1], digest))
    for count in range(len(events)):
        if before[count] == value:
            rest = len(events) - count
            first = describe(events[count].entry)
            return f"the value is that before the last {rest} events, from {first}"

    def rest_of(state: bytes, following: int) -> bytes:
        for digest in digests[following:]:
            state = extend(state, digest)
        return state

    for at, event in enumerate(events):
        if rest_of(before[at], at + 1) == value:
            return f"the value is that without event {at + 1}: {describe(event.entry)}"
        if rest_of(extend(before[at + 1], event.digest), at + 1) == value:
            return f"the value is that with event {at + 1} twice: {describe(event.entry)}"
        if (
            at + 1 < len(events)
            and rest_of(extend(extend(before[at], digests[at + 1]), event.digest), at + 2) == value
        ):
            return f"the value is that with events {at + 1} and {at + 2} in swapped order: {describe(event.entry)}"
        for candidate in hashed(event.entry):
            own = hashlib.sha384(candidate).digest()
            if own != event.digest and rest_of(extend(before[at], own), at + 1) == value:
                said = describe(event.entry)
                return f"event {at + 1} was extended with the digest of its data, not the logged one: {said}"
    for at in range(len(events) + 1):
        if rest_of(extend(before[at], _SEPARATOR), at) == value:
            return f"the value has a separator ({type_name(EV_SEPARATOR)}) more, before event {at + 1}"
    return None


_NAMED = 4


def unproven(events: Sequence[LoggedEvent]) -> list[int]:
    """The positions, from 1, of the events whose digest the log's own data does not prove."""
    return [number for number, event in enumerate(events, 1) if proven(event.entry) is None]


def other_digests(events: Sequence[LoggedEvent]) -> str:
    """Describe what remains when `one_change` finds nothing: an event whose digest differs from the log's."""
    open_ = unproven(events)
    if not events:
        return "the log has no event for it, but something extended it"
    if not open_:
        return (
            "no event left out, repeated or moved explains it, and every digest is of the log's own text: the log is "
            "another boot's, or an event of it is missing"
        )
    shown = ", ".join(f"{number} {describe(events[number - 1].entry)}" for number in open_[:_NAMED])
    more = f" and {len(open_) - _NAMED} more" if len(open_) > _NAMED else ""
    return (
        "no event left out, repeated or moved explains it, so one event or more had another digest. The log's text "
        f"does not prove the digest of event {shown}{more}"
    )
