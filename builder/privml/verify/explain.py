"""Explain why a register differs: the first events that differ between the boot's log and the prediction.

A log is used for a register only if it replays to the quote's value of that register.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType

from privml.events.agent import AgentEvent
from privml.events.align import differences
from privml.events.event import Event
from privml.events.logged import LoggedEvent
from privml.events.wording import difference_line, quoted, text_in
from privml.evidence.facts import Facts
from privml.statement.launch import LAYOUTS, MeasuredLaunch

MAX_DIFFERENCES = 8


def unexplained(
    register: str, facts: Facts, shape: MeasuredLaunch, unlogged: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Why no log can explain a difference of ``register``; empty if one can.

    ``unlogged`` says why a register of the TEE has no log.
    """
    if register in unlogged:
        return unlogged[register]
    if register == LAYOUTS[shape.tee].runtime:
        if facts.agent_rtmr3 == facts.claims.registers[register]:
            return ""
        return (
            f"the agent's log does not replay to {register.upper()}: "
            "something else extended it, or the log is not this boot's"
        )
    log = facts.boot_log
    if log.kind == "absent":
        return "no boot log was sent"
    if log.kind == "malformed":
        return f"the boot log cannot be read: {log.error}"
    if register not in log.matches:
        return f"the boot log does not replay to {register.upper()}, so it cannot explain the difference"
    return "" if shape.of(register) else "the statement has no events of this register"


def register_difference(
    register: str, facts: Facts, shape: MeasuredLaunch, unlogged: Mapping[str, str] = MappingProxyType({})
) -> str:
    """One line for each differing event of ``register``, at most `MAX_DIFFERENCES`; or why the log cannot be used.

    ``unlogged`` says why a register of the TEE has no log.
    """
    if why := unexplained(register, facts, shape, unlogged):
        return why
    if register == LAYOUTS[shape.tee].runtime:
        return f"the agent's log replays to {register.upper()}"
    return "\n".join(_differences(register, shape.of(register), facts.boot_log.of(register)))


def agent_difference(logged: Sequence[AgentEvent], expected: Sequence[AgentEvent]) -> str:
    """One line for each event at which the agent's log differs from the expected list."""
    lines = [
        agent_line(index, got, want) for index, (got, want) in enumerate(zip_longest(logged, expected)) if got != want
    ]
    return "\n".join(_cut(lines, len(lines)))


def agent_line(index: int, got: AgentEvent | None, want: AgentEvent | None) -> str:
    """One line that compares agent event ``index`` of the log with the expected one."""
    return f"agent event {index}: expected {_agent_words(want)}; logged {_agent_words(got)}"


def _agent_words(event: AgentEvent | None) -> str:
    if event is None:
        return "nothing"
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
