"""The measured events of a judged guest next to the expected ones: one column for each register.

Whether an event is equal is proven, never read from a log alone: if a register has an accepted value, its events are
the predicted ones. If it has another value, a log that replays to it shows which events differ. Where no accepted
signature vouches for the values, nothing is equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby, zip_longest
from typing import Any

from privml.events import origin
from privml.events.agent import AgentEvent
from privml.events.align import align
from privml.events.event import Event, Evidence
from privml.events.logged import LoggedEvent
from privml.events.registers import REGISTERS
from privml.events.types import type_name
from privml.events.wording import difference_halves
from privml.statement.launch import LAYOUTS, FilledBy, MeasuredLaunch
from privml.verify.check import RULES
from privml.verify.explain import MAX_DIFFERENCES, agent_line, unexplained
from privml.verify.judgement import Judgement

MAX_ROWS = 32
"""Rows of one column. The host controls the length of a log."""
_UNVOUCHED = "no accepted signature vouches for this value"
_KEPT = 2  # shorter runs of equal events are not folded


class Mark(StrEnum):
    """The result of comparing a register or an event."""

    EQUAL = "equal"
    DIFFERS = "differs"
    OPEN = "not-compared"


@dataclass(frozen=True)
class Row:
    """An event: what is measured, and the line of the recipe that chose it (empty if none did).

    ``detail`` says how it differs. ``count`` is above 1 where equal neighbours are folded into one row.
    """

    mark: Mark
    what: str
    recipe: str = ""
    detail: str = ""
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "mark": self.mark.value,
            "what": self.what,
            "recipe": self.recipe,
            "detail": self.detail,
            "count": self.count,
        }


@dataclass(frozen=True)
class Column:
    """A register: its value, the accepted ones (none if it is not compared), and its events.

    ``level`` says how well its prediction is confirmed, ``why`` why events are not compared. ``left`` rows were left
    out.
    """

    register: str
    mark: Mark
    got: bytes
    accepted: tuple[bytes, ...]
    level: Evidence | None
    why: str
    rows: tuple[Row, ...]
    left: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "register": self.register,
            "mark": self.mark.value,
            "got": self.got.hex(),
            "accepted": [value.hex() for value in self.accepted],
            "evidence": None if self.level is None else self.level.value,
            "why": self.why,
            "events": [row.to_dict() for row in self.rows],
            "left": self.left,
        }


def columns(judgement: Judgement) -> tuple[Column, ...]:
    """One column for each register of the guest's TEE, in display order."""
    return tuple(_column(judgement, register) for register in REGISTERS[judgement.facts.claims.tee])


def _column(judgement: Judgement, register: str) -> Column:
    launch, facts = judgement.launch, judgement.facts
    got, accepted = facts.claims.registers[register], judgement.accepted.get(register, ())
    level, why = None, "no prediction for this TEE"
    rows: Iterable[Row | None] = ()
    mark = Mark.OPEN
    if launch is not None:
        mark = Mark.OPEN if not accepted else Mark.EQUAL if got in accepted else Mark.DIFFERS
        level = launch.evidence().get(register)
        why, rows = _rows(judgement, launch, register, mark)
    if not judgement.vouched:
        rows = [row and replace(row, mark=_unproven(row.mark)) for row in rows]
        mark, why = _unproven(mark), _UNVOUCHED if mark is Mark.EQUAL else why
    shown, left = _cut(rows)
    return Column(register, mark, got, accepted, level, why, shown, left)


def _unproven(mark: Mark) -> Mark:
    return Mark.OPEN if mark is Mark.EQUAL else mark


def _rows(
    judgement: Judgement, launch: MeasuredLaunch, register: str, mark: Mark
) -> tuple[str, Iterable[Row | None]]:
    """Why events of ``register`` are not compared (empty if they are), and its rows."""
    runtime = register == LAYOUTS[launch.tee].runtime
    predicted = launch.of(register)
    if runtime:
        if launch.runtime_unused:
            return "unused: the image's kernel cannot extend it", ()
        predicted = predicted[: len(judgement.agent_events)]
    if mark is not Mark.DIFFERS:
        value = launch.registers[register]
        why = f"left to {value.source}" if isinstance(value, FilledBy) else "the statement has no value"
        known = [_known(mark, event) for event in predicted]
        if runtime and not known:
            known = [Row(mark, f"agent: {event.name}") for event in judgement.agent_events]
        return "" if mark is Mark.EQUAL else why, known
    facts = judgement.facts
    why = unexplained(register, facts, launch, RULES[launch.tee].unlogged)
    if why:
        return why, [_known(Mark.OPEN, event) for event in predicted]
    if runtime:
        return "", _agent_rows(facts.agent_events, judgement.agent_events, predicted)
    return "", _log_rows(predicted, facts.boot_log.of(register))


def _known(mark: Mark, event: Event, detail: str = "") -> Row:
    what, recipe = origin.split(event.origin)
    return Row(mark, what, recipe, detail)


def _log_rows(predicted: Sequence[Event], logged: Sequence[LoggedEvent]) -> Iterator[Row | None]:
    """A row for each event; None for a differing one after the first `MAX_DIFFERENCES`."""
    pairs = list(align([(row.type, row.digest) for row in predicted], [(row.type, row.digest) for row in logged]))
    differing = [pair for pair in pairs if not _same(predicted, logged, pair)][:MAX_DIFFERENCES]
    # Describe only the events that are shown, because the host controls how many there are.
    near = [predicted[a] for a, _, _ in differing if a is not None]
    for pair in pairs:
        want, got = None if pair[0] is None else predicted[pair[0]], None if pair[1] is None else logged[pair[1]]
        if want is not None and _same(predicted, logged, pair):
            yield _known(Mark.EQUAL, want)
        elif pair not in differing:
            yield None
        else:
            # The row names the prediction already.
            detail = difference_halves(want, got, near=near)[1] or "missing in the log"
            if want is not None:
                yield _known(Mark.DIFFERS, want, detail)
            elif got is not None:
                yield Row(Mark.DIFFERS, f"log record {got.number}: {type_name(got.type)}", "", detail)


def _same(
    predicted: Sequence[Event], logged: Sequence[LoggedEvent], pair: tuple[int | None, int | None, int]
) -> bool:
    a, b, _ = pair
    return a is not None and b is not None and predicted[a].digest == logged[b].digest


def _agent_rows(
    logged: Sequence[AgentEvent], expected: Sequence[AgentEvent], predicted: Sequence[Event]
) -> Iterator[Row]:
    for index, (got, want) in enumerate(zip_longest(logged, expected)):
        mark = Mark.EQUAL if got == want else Mark.DIFFERS
        detail = "" if got == want else agent_line(index, got, want)
        named = got if want is None else want
        if want is not None and index < len(predicted):
            yield _known(mark, predicted[index], detail)
        elif named is not None:
            yield Row(mark, f"agent: {named.name}", "", detail)


def _cut(rows: Iterable[Row | None]) -> tuple[tuple[Row, ...], int]:
    """At most `MAX_ROWS` rows, and how many were left out: long runs of equal events are folded first."""
    every = list(rows)
    found = [row for row in every if row is not None]
    left = len(every) - len(found)
    if len(found) > MAX_ROWS:
        folded: list[Row] = []
        for mark, run in groupby(found, lambda row: row.mark):
            of = list(run)
            fold = mark is Mark.EQUAL and len(of) > _KEPT
            folded += [Row(mark, f"{len(of)} equal events", count=len(of))] if fold else of
        found = folded
    return tuple(found[:MAX_ROWS]), left + max(0, len(found) - MAX_ROWS)
