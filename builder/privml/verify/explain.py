"""Explain why a register differs: the first events that differ between the boot's log and the prediction.

A log is used for a register only if it replays to the quote's value of that register.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from privml.events.agent import AgentEvent
from privml.events.align import differences
from privml.events.event import Event
from privml.events.logged import LoggedEvent
from privml.events.wording import difference_line, quoted, text_in
from privml.evidence.facts import Facts
from privml.statement.launch import LAYOUTS, MeasuredLaunch

MAX_DIFFERENCES = 8


def register_difference(
    register: str, facts: Facts, shape: MeasuredLaunch, unlogged: Mapping[str, str] = MappingProxyType({})
) -> str:
    """One line for each differing event of ``register``, at most `MAX_DIFFERENCES`; or why the log cannot be used.

    ``unlogged`` says why a register of the TEE has no log.
    """
    if register in unlogged:
        return unlogged[register]
    if register == LAYOUTS[shape.tee].runtime:
        if facts.agent_rtmr3 != facts.claims.registers[register]:
            return (
                f"the agent's log does not replay to {register.upper()}: "
                "something else extended it, or the log is not this boot's"
            )
        return f"the agent's log replays to {register.upper()}"
    log = facts.boot_log
    if log.kind == "absent":
        return "no boot log was sent"
    if log.kind == "malformed":
        return f"the boot log cannot be read: {log.error}"
    if register not in log.matches:
        return f"the boot log does not replay to {register.upper()}, so it cannot explain the difference"
    predicted, logged = shape.of(register), log.of(register)
    if not predicted:
        return "the statement has no events of this register"
    return "\n".join(_differences(register, predicted, logged))


def agent_difference(logged: Sequence[AgentEvent], expected: Sequence[AgentEvent]) -> str:
    """One line for each event at which the agent's log differs from the expected list."""
    lines = []
    for index in range(max(len(logged), len(expected))):
        got = _agent_words(logged[index]) if index < len(logged) else "nothing"
        want = _agent_words(expected[index]) if index < len(expected) else "nothing"
        if index >= len(logged) or index >= len(expected) or logged[index] != expected[index]:
            lines.append(f"agent event {index}: expected {want}; logged {got}")
    return "\n".join(_cut(lines, len(lines)))


def _agent_words(event: AgentEvent) -> str:
    return f"{event.name} {quoted(text_in(event.payload) or event.payload.hex())}"


def _differences(register: str, predicted: Sequence[Event], logged: Sequence[LoggedEvent]) -> list[str]:
    found = list(differences(predicted, logged))
    # Describe only the events that are shown, because the host controls how many there are.
    shown = found[:MAX_DIFFERENCES]
    near = [want for want, _, _ in shown if want is not None]
    lines = [difference_line(register, position, want, got, near=near) for want, got, position in shown]
    return _cut(lines, len(found)) or [f"{register.upper()}: the same events are logged and predicted"]


def _cut(lines: list[str], count: int) -> list[str]:
    left = count - MAX_DIFFERENCES
    return lines if left <= 0 else [*lines[:MAX_DIFFERENCES], f"and {left} more"]
