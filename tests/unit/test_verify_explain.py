"""A register that differs is explained by the event that differs, if the log can be believed."""

from __future__ import annotations

import dataclasses
import hashlib

import attestation_samples as samples
import pytest

from privml.events import agent, types
from privml.events.registers import RTMR2, RTMR3
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.wording import describe
from privml.verify.verdict import Verdict

Items = list[samples.Extend]


def judge(items: Items | None = None, **changes: object) -> Verdict:
    return samples.judge(samples.document(items, **changes)).verdict  # type: ignore[arg-type]


def where(verdict: Verdict, code: str) -> str:
    assert [refusal.code for refusal in verdict.refusals] == [code], verdict
    return verdict.refusals[0].where


def extra(text: str) -> samples.Extend:
    return (RTMR2, types.EV_IPL, samples.utf16(text), samples.utf16(text), "nobody")


def test_another_command_line_names_recipe_line_and_text() -> None:
    text = where(judge(samples.extends(4 << 30, "console=ttyS0 privml.log_prompts=1")), "rtmr2")
    assert "closest shape: qemu-11-q35, 4 vcpus, 4096 MiB" in text
    assert "RTMR2 event 2: predicted EV_IPL from uki.efi .cmdline (recipes/demo-cpu.yaml:9 kernel.package)" in text
    assert 'logged EV_IPL "console=ttyS0 privml.log_prompts=1"' in text
    assert "the log's words" not in text
    assert len(text.splitlines()) == 2


def test_an_appended_event_is_named() -> None:
    text = where(judge([*samples.extends(4 << 30), extra("init=/bin/sh")]), "rtmr2")
    assert 'RTMR2 event 4: not predicted: logged EV_IPL "init=/bin/sh"' in text


def test_an_inserted_event_is_named_and_the_rest_still_aligns() -> None:
    items = samples.extends(4 << 30)
    text = where(judge([*items[:3], extra("first"), *items[3:]]), "rtmr2")
    assert text.splitlines()[1:] == ['RTMR2 event 1: not predicted: logged EV_IPL "first"']


def test_a_missing_event_is_named() -> None:
    text = where(judge(samples.extends(4 << 30)[:-1]), "rtmr2")
    assert "missing: predicted EV_EVENT_TAG from uki.efi .initrd" in text


def test_swapped_events_are_a_difference() -> None:
    items = samples.extends(4 << 30)
    items[3], items[4] = items[4], items[3]
    assert "RTMR2" in where(judge(items), "rtmr2")


def test_a_log_that_does_not_replay_explains_nothing() -> None:
    other = samples.boot_log(samples.extends(4 << 30, "innocent"))
    text = where(judge(samples.extends(4 << 30, "guilty"), log=other), "rtmr2")
    assert "does not replay to RTMR2, so it cannot explain" in text
    assert "innocent" not in text


@pytest.mark.parametrize(("log", "words"), [(b"", "no boot log"), (b"x" * 40, "cannot be read")])
def test_an_unusable_log_is_reported_as_such(log: bytes, words: str) -> None:
    assert words in where(judge(samples.extends(4 << 30, "guilty"), log=log), "rtmr2")


def test_a_false_log_does_not_matter_when_the_registers_are_right() -> None:
    assert not judge(log=b"x" * 40).refusals


def test_the_shape_with_most_registers_in_common_is_compared() -> None:
    text = where(judge(samples.extends(2 << 30, "guilty")), "rtmr2")
    assert "closest shape: qemu-11-q35, 2 vcpus, 2048 MiB" in text
    text = where(judge(samples.extends(3 << 30)), "rtmr0")
    assert "RTMR0 event 1: predicted EV_EFI_HANDOFF_TABLES2 from TD HOB (shape)" in text


def test_another_agent_sequence_names_the_event() -> None:
    events = (*samples.AGENT_EVENTS[:1], agent.model_event("evil", "33" * 32), *samples.AGENT_EVENTS[2:])
    verdict = judge(agent_events=events)
    assert [refusal.code for refusal in verdict.refusals] == ["rtmr3", "agent-events"]
    register, log = verdict.refusals
    assert "the agent's log replays to RTMR3" in register.where
    assert log.where.startswith('agent event 1: expected model "{"name":"smollm2"')
    assert '"name":"evil"' in log.where


def test_failed_after_ready_is_named() -> None:
    verdict = judge(agent_events=(*samples.AGENT_EVENTS, agent.failed_event()))
    assert "agent event 4: expected nothing; logged failed" in verdict.refusals[1].where


def test_an_rtmr3_that_the_log_does_not_give() -> None:
    found = samples.with_register(samples.facts_of(samples.document()), RTMR3, bytes(48))
    verdict = samples.judge(facts=found).verdict
    (text,) = (refusal.where for refusal in verdict.refusals if refusal.code == "rtmr3")
    assert "does not replay to RTMR3" in text


def test_a_log_grown_by_its_host_is_still_aligned_and_cut() -> None:
    items = samples.extends(4 << 30)
    text = where(judge([*items[:3], extra("first"), *items[3:], *[extra("x")] * 6_000]), "rtmr2")
    assert text.splitlines()[1] == 'RTMR2 event 1: not predicted: logged EV_IPL "first"'
    assert text.splitlines()[-1] == "and 5993 more"


def test_many_differences_are_cut() -> None:
    text = where(judge([*samples.extends(4 << 30), *[extra(f"x{n}") for n in range(20)]]), "rtmr2")
    assert text.splitlines()[-1] == "and 12 more"


def _event(kind: int, data: bytes, hashed: bytes = b"?") -> LogEntry:
    return LogEntry(3, kind, {ALG_SHA384: hashlib.sha384(hashed).digest()}, data)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (_event(types.EV_IPL, samples.utf16("a b"), samples.utf16("a b")), 'EV_IPL "a b"'),
        (_event(types.EV_IPL, samples.utf16(".linux"), b".linux\0"), 'EV_IPL ".linux"'),
        (_event(types.EV_EFI_ACTION, b"Exit Boot", b"Exit Boot"), 'EV_EFI_ACTION "Exit Boot"'),
        (_event(types.EV_IPL, b"plain"), 'EV_IPL "plain" (the log\'s words, digest'),
        (_event(types.EV_IPL, b"\x1b[31mred"), "EV_IPL 8 bytes 1b5b33316d726564 (the log's words, digest"),
        (_event(types.EV_IPL, "a\u202eb".encode("utf-16-le")), "EV_IPL 6 bytes"),
        (_event(types.EV_IPL, b""), "EV_IPL 0 bytes (the log"),
        (_event(types.EV_EVENT_TAG, bytes(4) + b"\5\0\0\0hello"), 'EV_EVENT_TAG "hello"'),
        (_event(types.EV_EFI_GPT_EVENT, bytes(200)), "EV_EFI_GPT_EVENT 200 bytes"),
        (
            _event(
                types.EV_EFI_VARIABLE_DRIVER_CONFIG,
                bytes(16) + (10).to_bytes(8, "little") + bytes(8) + "SecureBoot".encode("utf-16-le"),
            ),
            "EV_EFI_VARIABLE_DRIVER_CONFIG variable SecureBoot",
        ),
        (_event(0x1234, b"\xff"), "0x00001234 1 bytes ff"),
    ],
)
def test_logged_events_in_words(event: LogEntry, words: str) -> None:
    assert describe(event).startswith(words)


def test_long_text_is_cut() -> None:
    assert '..." (5000 characters)' in describe(_event(types.EV_IPL, samples.utf16("x" * 5000)))


def test_events_of_another_shape_do_not_help() -> None:
    bare = dataclasses.replace(samples.PREDICATE.launches[1], events=())
    predicate = dataclasses.replace(samples.PREDICATE, launches=(bare,))
    made = samples.document(samples.extends(4 << 30, "guilty"))
    verdict = samples.judge(made, expected=dataclasses.replace(samples.EXPECTED, predicate=predicate)).verdict
    assert "has no events of this register" in where(verdict, "rtmr2")
