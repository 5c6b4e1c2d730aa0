"""The gate: which judgement is in force, and that nobody waits for another caller's verification."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError, HostError, PrivmlError
from privml.client import attested
from privml.client.gate import Decision, Gate
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

ACCEPTED = samples.judge()
OTHER_KEY = samples.judge(samples.document(spki=bytes(32)), tls_spki_sha256=bytes(32))
REFUSED = samples.judge(policy=Policy())
UNAVAILABLE = HostError("nobody answers")


class Upstream:
    """What a fetch leads to: a judgement or an error, at once or when the test lets it."""

    def __init__(self) -> None:
        self.result: Judgement | PrivmlError = ACCEPTED
        self.now = 0.0
        self.takes = 0.0
        self.fetches = 0
        self.held: threading.Event | None = None
        self.begun = threading.Event()

    def fetch(self, *_: object) -> attested.Fetched:
        self.fetches += 1
        self.begun.set()
        result, held = self.result, self.held
        if held is not None:
            assert held.wait(30)
        self.now += self.takes
        if isinstance(result, PrivmlError):
            raise result
        self.judged = result
        return attested.Fetched(b"", b"")

    def gate(self, *, interval: float = 300.0, max_age: float = 600.0) -> Gate:
        return Gate(
            "https://guest:1", lambda *_: self.judged, interval=interval, max_age=max_age, clock=lambda: self.now
        )


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    made = Upstream()
    monkeypatch.setattr(attested, "fetch", made.fetch)
    return made


def in_thread(call: Callable[[], Decision]) -> tuple[threading.Thread, list[Decision]]:
    found: list[Decision] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_judgement_in_force_needs_no_fetch(upstream: Upstream) -> None:
    gate = upstream.gate()
    assert gate.last is None
    assert gate.decide().open
    upstream.now = 299.0
    assert gate.decide().judgement is ACCEPTED
    assert upstream.fetches == 1


def test_waiters_are_unavailable_and_one_verification_runs(upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.held = threading.Event()
    thread, found = in_thread(gate.decide)
    assert upstream.begun.wait(10)
    for options in ({}, {"fresh": True}, {"not_keys": ACCEPTED.keys}):
        decision = gate.decide(**options)  # type: ignore[arg-type]
        assert (decision.open, decision.unavailable) == (False, True)
        assert decision.message == "https://guest:1 is being verified; ask again"
    upstream.held.set()
    thread.join()
    assert found[0].open
    assert gate.decide() is found[0]
    assert upstream.fetches == 1


def test_the_last_judgement_serves_while_the_next_is_made(upstream: Upstream) -> None:
    gate = upstream.gate()
    first = gate.decide()
    upstream.now, upstream.held = 300.0, threading.Event()
    upstream.begun.clear()
    assert gate.decide() is first
    assert upstream.begun.wait(10), "a judgement older than the interval is renewed by a request"
    upstream.now = 599.0
    assert gate.decide() is first
    assert gate.last is first
    assert gate.decide(fresh=True) is first
    upstream.now = 600.0
    assert gate.decide().unavailable
    assert gate.last is None
    upstream.now = 301.0
    upstream.held.set()
    until(lambda: gate.last is not first)
    assert gate.decide().open
    assert upstream.fetches == 2


def test_a_refusal_ends_the_last_judgement_at_once(upstream: Upstream) -> None:
    gate = upstream.gate()
    assert gate.decide().open
    for refusal in (REFUSED, EvidenceError("malformed")):
        upstream.result = ACCEPTED
        assert gate.decide(fresh=True).open
        upstream.result = refusal
        closed = gate.decide(fresh=True)
        assert (closed.open, closed.unavailable) == (False, False)
        assert gate.decide() is closed
        assert gate.last is closed


def test_an_upstream_without_a_document_leaves_the_judgement_to_its_age(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gate = upstream.gate()
    first = gate.decide()
    upstream.result, upstream.now = UNAVAILABLE, 300.0
    assert gate.decide(fresh=True) is first
    assert "nobody answers (the last accepted judgement stays in force)" in caplog.text
    upstream.now = 600.0
    assert gate.decide().message == "nobody answers"
    upstream.result, upstream.now = ACCEPTED, 602.0
    assert gate.decide().open


def test_failed_renewals_are_repeated_after_a_pause(upstream: Upstream) -> None:
    gate = upstream.gate()
    gate.decide()
    upstream.result, upstream.now = UNAVAILABLE, 300.0
    gate.decide(fresh=True)
    upstream.now = 301.0
    assert gate.decide().open
    assert upstream.fetches == 2
    upstream.now = 302.0
    assert gate.decide().open
    until(lambda: upstream.fetches == 3)


def test_a_closed_gate_is_asked_again_after_a_pause(upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.result = REFUSED
    closed = gate.decide()
    upstream.now = 1.0
    assert gate.decide() is closed
    upstream.now, upstream.result = 2.0, ACCEPTED
    assert gate.decide().open


def test_waiters_behind_a_refusal_get_its_reasons(upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.result = REFUSED
    closed = gate.decide()
    upstream.now, upstream.held = 5.0, threading.Event()
    upstream.begun.clear()
    thread, found = in_thread(gate.decide)
    assert upstream.begun.wait(10)
    assert gate.decide() is closed
    upstream.held.set()
    thread.join()
    assert not found[0].open


def test_another_key_ends_the_judgement_of_the_old_one(upstream: Upstream) -> None:
    gate = upstream.gate()
    old = gate.decide()
    upstream.result, upstream.held = OTHER_KEY, threading.Event()
    upstream.begun.clear()
    thread, found = in_thread(lambda: gate.decide(not_keys=old.keys))
    assert upstream.begun.wait(10)
    assert gate.decide().unavailable, "the old keys serve nobody any more"
    upstream.held.set()
    thread.join()
    assert found[0].keys == OTHER_KEY.keys
    assert gate.decide(not_keys=old.keys) is found[0], "somebody else has noticed it already"
    assert upstream.fetches == 2


def test_keys_of_a_fetch_that_began_before_the_change_are_dropped_again(upstream: Upstream) -> None:
    gate = upstream.gate()
    old = gate.decide()
    upstream.now, upstream.held = 300.0, threading.Event()
    upstream.begun.clear()
    gate.decide()
    assert upstream.begun.wait(10)
    upstream.result = OTHER_KEY
    assert gate.decide(not_keys=old.keys).unavailable
    upstream.held.set()
    until(lambda: gate.last is not None)
    upstream.held = None
    assert gate.decide(not_keys=old.keys).keys == OTHER_KEY.keys


def test_the_age_counts_from_the_question(upstream: Upstream) -> None:
    """A judgement that took long is as old as its nonce."""
    gate = upstream.gate(interval=50.0, max_age=100.0)
    upstream.takes = 99.0
    assert gate.decide().open
    upstream.now = 100.0
    upstream.takes = 101.0
    late = gate.decide()
    assert late.unavailable
    assert "longer than a judgement may be old" in late.message
    assert gate.last is None


def test_an_interval_is_never_longer_than_the_age(upstream: Upstream) -> None:
    assert upstream.gate(interval=900.0, max_age=600.0).interval == 600.0


def test_a_bug_in_the_background_closes_the_gate(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    gate = upstream.gate()
    gate.decide()

    def fetch(*_: object) -> attested.Fetched:
        raise RuntimeError("a bug")

    monkeypatch.setattr(attested, "fetch", fetch)
    upstream.now = 300.0
    assert gate.decide().open
    until(lambda: gate.last is None)
    until(lambda: "cannot be verified" in caplog.text)


def test_many_callers_at_once_make_one_fetch(upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.held = threading.Event()
    callers = [in_thread(gate.decide) for _ in range(30)]
    assert upstream.begun.wait(10)
    until(lambda: sum(bool(found) for _, found in callers) == 29)
    upstream.held.set()
    for thread, _ in callers:
        thread.join()
    assert sorted(found[0].open for _, found in callers) == [False] * 29 + [True]
    assert upstream.fetches == 1
