"""Why a register differs: the first events at which the boot's log and the prediction part ways.

A log is believed for a register only when it replays to the quote's value of that register.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from privml.events import types
from privml.events.agent import AgentEvent
from privml.events.event import Event
from privml.events.registers import Register
from privml.evidence.facts import Facts, LoggedEvent
from privml.statement.predicate import MeasuredShape
from privml.verify.text import decode, describe, quoted, text_of, word_changes

MAX_DIFFERENCES = 8
_MAX_ALIGNED = 512


def register_difference(register: Register, facts: Facts, shape: MeasuredShape) -> str:
    """One line for each differing event of ``register``, at most `MAX_DIFFERENCES`; or why the log is no help."""
    if register is Register.MRTD:
        return "MRTD has no log: the TD was started with another firmware file, or by another method"
    if register is Register.RTMR3:
        if facts.agent_rtmr3 != facts.register(register):
            return (
                "the agent's log does not replay to RTMR3: something else extended it, or the log is not this boot's"
            )
        return "the agent's log replays to RTMR3"
    log = facts.boot_log
    if log.kind == "absent":
        return "no boot log was sent"
    if log.kind == "malformed":
        return f"the boot log cannot be read: {log.error}"
    if register not in log.matches:
        return f"the boot log does not replay to {register.name}: it explains nothing"
    predicted, logged = shape.of(register), log.of(register)
    if not predicted:
        return "the statement lists no events of this register"
    return "\n".join(_differences(register, predicted, logged))


def agent_difference(logged: Sequence[AgentEvent], expected: Sequence[AgentEvent]) -> str:
    """One line for each event at which the agent's log differs from the expected list."""
    lines = []
    for index in range(max(len(logged), len(expected))):
        got = _agent_words(logged[index]) if index < len(logged) else "nothing"
        want = _agent_words(expected[index]) if index < len(expected) else "nothing"
        if index >= len(logged) or index >= len(expected) or logged[index] != expected[index]:
            lines.append(f"agent event {index}: expected {want}; logged {got}")
    return "\n".join(_cut(lines))


def _agent_words(event: AgentEvent) -> str:
    return f"{event.name} {quoted(decode(event.payload) or event.payload.hex())}"


def _differences(register: Register, predicted: Sequence[Event], logged: Sequence[LoggedEvent]) -> list[str]:
    name = register.name
    if len(predicted) > _MAX_ALIGNED or len(logged) > _MAX_ALIGNED:
        # Alignment is quadratic and the log's length is the host's choice: such a log is told apart by position.
        pairs = enumerate(zip(predicted, logged, strict=False))
        at = next((index for index, (want, got) in pairs if want.digest != got.digest), None)
        if at is None:
            return [f"{name}: {len(logged)} events, predicted {len(predicted)}"]
        return [_replaced(name, at, predicted[at], logged[at])]
    matcher = SequenceMatcher(
        None, [event.digest for event in predicted], [event.digest for event in logged], autojunk=False
    )
    lines = []
    for tag, low, high, logged_low, logged_high in matcher.get_opcodes():
        if tag == "equal":
            continue
        for want, at in zip(predicted[low:high], range(logged_low, logged_high), strict=False):
            lines.append(_replaced(name, at, want, logged[at]))
        common = min(high - low, logged_high - logged_low)
        lines.extend(
            f"{name} event {at}: not predicted: logged {describe(logged[at])}"
            for at in range(logged_low + common, logged_high)
        )
        lines.extend(f"{name}: missing from the log: {_origin(want)}" for want in predicted[low + common : high])
    return _cut(lines) or [f"{name}: the same events are logged and predicted"]


def _replaced(name: str, at: int, want: Event, got: LoggedEvent) -> str:
    text = text_of(got)
    changes = word_changes(want.note, text) if text is not None and want.note else None
    if changes is not None:
        source = f"{types.type_name(want.type)} from {want.origin}"
        return f"{name} event {at}: predicted {source}; logged {types.type_name(got.type)} {changes}"
    return f"{name} event {at}: predicted {_origin(want)}; logged {describe(got)}"


def _origin(event: Event) -> str:
    note = f" [{event.note}]" if event.note else ""
    return f"{types.type_name(event.type)} from {event.origin}{note}"


def _cut(lines: list[str]) -> list[str]:
    left = len(lines) - MAX_DIFFERENCES
    return lines if left <= 0 else [*lines[:MAX_DIFFERENCES], f"and {left} more"]
