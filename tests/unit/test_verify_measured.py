"""The measured events next to the expected ones: what is equal is proven, and what differs has its recipe line."""

from __future__ import annotations

import dataclasses

import attestation_samples as samples
import pytest

from privml.events import agent, types
from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR2, RTMR3, TDX_REGISTERS
from privml.evidence.claims import SignatureFailure
from privml.statement.launch import FilledBy
from privml.verify.anchor import Expected
from privml.verify.explain import MAX_DIFFERENCES
from privml.verify.measured import MAX_ROWS, Column, Mark, columns
from privml.verify.policy import Policy

LINE = "recipes/demo-cpu.yaml:9 kernel.package"


def by_register(items: list[samples.Extend] | None = None, **changes: object) -> dict[str, Column]:
    found = columns(samples.judge(samples.document(items, **changes)))  # type: ignore[arg-type]
    return {column.register: column for column in found}


def marks(column: Column) -> list[Mark]:
    return [row.mark for row in column.rows]


def with_predicate(**changes: object) -> Expected:
    return dataclasses.replace(samples.EXPECTED, predicate=dataclasses.replace(samples.PREDICATE, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("log", [b"", b"x" * 40])
def test_a_register_with_its_value_proves_all_of_its_events_without_a_log(log: bytes) -> None:
    found = by_register(log=log)
    assert tuple(found) == TDX_REGISTERS
    assert {column.mark for column in found.values()} == {Mark.EQUAL}
    assert [len(column.rows) for column in found.values()] == [0, 2, 1, 3, 4]
    assert all(row.mark is Mark.EQUAL and not row.detail for column in found.values() for row in column.rows)
    assert found[RTMR2].rows[1].what == "uki.efi .cmdline"
    assert found[RTMR2].rows[1].recipe == LINE
    assert found[RTMR3].rows[0].what == "agent: config"


@pytest.mark.parametrize(
    "changes",
    [{"signature": SignatureFailure("quote-signature", "altered", "a signature")}, {"policy": Policy()}],
    ids=["no-signature", "no-accepted-root"],
)
def test_without_an_accepted_signature_nothing_is_equal(changes: dict[str, object]) -> None:
    honest = columns(samples.judge(**changes))
    assert {column.mark for column in honest} == {row.mark for column in honest for row in column.rows} == {Mark.OPEN}
    assert {column.why for column in honest} == {"no accepted signature vouches for this value"}
    other = samples.document(samples.extends(4 << 30, samples.CMDLINE + " init=/bin/sh"))
    column = {each.register: each for each in columns(samples.judge(other, **changes))}[RTMR2]
    assert (column.mark, marks(column)) == (Mark.DIFFERS, [Mark.OPEN, Mark.DIFFERS, Mark.OPEN])


def test_another_command_line_is_the_one_event_that_differs() -> None:
    found = by_register(samples.extends(4 << 30, samples.CMDLINE + " init=/bin/sh"))
    column = found[RTMR2]
    assert (column.mark, marks(column)) == (Mark.DIFFERS, [Mark.EQUAL, Mark.DIFFERS, Mark.EQUAL])
    assert column.rows[1].recipe == LINE
    assert column.rows[1].detail.startswith('logged EV_IPL "console=ttyS0 privml.root=abc init=/bin/sh"')
    assert column.got not in column.accepted
    assert {other.mark for name, other in found.items() if name != RTMR2} == {Mark.EQUAL}


def test_an_added_event_and_a_missing_one_are_named() -> None:
    items = samples.extends(4 << 30)
    added = by_register([*items, (RTMR2, types.EV_IPL, b"x", samples.utf16("init=/bin/sh"), "")])[RTMR2].rows[-1]
    assert (added.mark, added.what, added.recipe) == (Mark.DIFFERS, "log record 7: EV_IPL", "")
    assert 'not predicted: logged EV_IPL "init=/bin/sh"' in added.detail
    missing = by_register(items[:-1])[RTMR2].rows[-1]
    assert (missing.mark, missing.what, missing.detail) == (Mark.DIFFERS, "uki.efi .initrd", "missing in the log")


def test_a_log_that_does_not_replay_marks_no_event() -> None:
    other = samples.boot_log(samples.extends(4 << 30, "innocent"))
    column = by_register(samples.extends(4 << 30, "guilty"), log=other)[RTMR2]
    assert (column.mark, set(marks(column))) == (Mark.DIFFERS, {Mark.OPEN})
    assert "does not replay to RTMR2" in column.why
    assert "innocent" not in repr(column)


def test_another_firmware_has_no_events_to_compare() -> None:
    facts = samples.with_register(samples.facts_of(samples.document()), MRTD, bytes(48))
    column = columns(samples.judge(facts=facts))[0]
    assert (column.mark, column.rows, len(column.accepted)) == (Mark.DIFFERS, (), 2)
    assert column.why.startswith("MRTD has no log")


def test_another_model_is_the_agent_event_that_differs() -> None:
    events = (samples.AGENT_EVENTS[0], agent.model_event("other", "33" * 32), *samples.AGENT_EVENTS[2:])
    column = by_register(agent_events=events)[RTMR3]
    assert marks(column) == [Mark.EQUAL, Mark.DIFFERS, Mark.EQUAL, Mark.EQUAL]
    assert "expected model" in column.rows[1].detail and '"other"' in column.rows[1].detail


def test_agent_events_after_the_expected_ones_are_shown() -> None:
    column = by_register(agent_events=(*samples.AGENT_EVENTS, agent.failed_event()))[RTMR3]
    assert (column.rows[-1].mark, column.rows[-1].what) == (Mark.DIFFERS, "agent: failed")


def test_a_register_without_a_value_is_not_compared() -> None:
    launch = samples.launch(4, 4 << 30)
    opened = dataclasses.replace(launch, registers={**launch.registers, RTMR0: None, RTMR1: FilledBy("a cloud")})
    expected = with_predicate(launches=(opened,), variant="development")
    found = {each.register: each for each in columns(samples.judge(expected=expected))}
    assert (found[RTMR0].mark, found[RTMR0].why) == (Mark.OPEN, "the statement has no value")
    assert (found[RTMR1].mark, found[RTMR1].why) == (Mark.OPEN, "left to a cloud")
    assert set(marks(found[RTMR0])) == {Mark.OPEN}


def test_without_a_predicted_machine_nothing_is_compared() -> None:
    found = columns(samples.judge(expected=with_predicate(launches=())))
    assert [(column.mark, column.rows) for column in found] == [(Mark.OPEN, ())] * 5


def test_a_log_that_its_host_makes_long_gives_a_short_column() -> None:
    many = [(RTMR2, types.EV_IPL, b"%d" % at, b"%d" % at, "") for at in range(300)]
    column = by_register([*samples.extends(4 << 30), *many])[RTMR2]
    assert len(column.rows) <= MAX_ROWS
    assert marks(column).count(Mark.DIFFERS) == MAX_DIFFERENCES
    assert column.left == 300 - MAX_DIFFERENCES


def test_long_runs_of_equal_events_are_folded_and_the_differing_one_stays() -> None:
    filler = [(RTMR2, types.EV_IPL, b"%d" % at, b"%d" % at, f"part {at}") for at in range(MAX_ROWS)]
    items = [*samples.extends(4 << 30), *filler]
    launch = samples.launch(4, 4 << 30)
    events = tuple(
        dataclasses.replace(
            launch.events[0], register=register, type=kind, digest=samples.hashlib.sha384(of).digest()
        )
        for register, kind, of, _, _ in items
    )
    value = samples.registers(items)[RTMR2]
    grown = dataclasses.replace(samples.with_values(launch, RTMR2, value), events=events)
    changed = [*items[:-1], (RTMR2, types.EV_IPL, b"other", b"other", "")]
    found = columns(samples.judge(samples.document(changed), expected=with_predicate(launches=(grown,))))
    column = next(each for each in found if each.register == RTMR2)
    assert marks(column) == [Mark.EQUAL, Mark.DIFFERS]
    assert (column.rows[0].count, column.left) == (MAX_ROWS + 2, 0)
