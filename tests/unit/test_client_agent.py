"""The real agent (attestor and server processes, simulated platform) judged by the real client, and behind the proxy.

The prediction is made here from what the agent was given, not from what it answers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import attestation_samples as samples
import pytest
from agent_guest import Guest, guest, prediction
from test_client_proxy import ask, proxied

from privml.base.errors import HostError
from privml.client import attested, kept
from privml.client.gate import Check, Gate
from privml.events.registers import RTMR2
from privml.events.replay import replay_digests
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome, Verdict


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()  # waits for the server
        yield made


def url(made: Guest) -> str:
    return f"https://127.0.0.1:{made.config.listen}"


def judge(made: Guest, predicate: Predicate, policy: Policy = samples.SIMULATED) -> Verdict:
    expected = Expected(predicate, Built("out"))
    return attested.attest(url(made), expected, policy, now=int(time.time())).judgement.verdict


def test_the_agent_is_accepted_as_a_simulation(served: Guest) -> None:
    verdict = judge(served, prediction(served))
    assert (verdict.outcome, verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())


def test_without_the_simulated_root_it_is_refused(served: Guest) -> None:
    verdict = judge(served, prediction(served), Policy())
    assert {refusal.code for refusal in verdict.refusals} == {"simulated", "development"}


def test_another_initrd_is_named_from_the_tpm_log(served: Guest) -> None:
    expected = prediction(served)
    digest = b"\x04" * 48
    launch = samples.with_values(expected.launches[0], RTMR2, replay_digests([digest]))
    changed = dataclasses.replace(launch, events=(dataclasses.replace(launch.events[0], digest=digest),))
    verdict = judge(served, dataclasses.replace(expected, launches=(changed,)))
    (refusal,) = verdict.refusals
    assert refusal.code == "rtmr2"
    assert "RTMR2 event 1: predicted EV_EVENT_TAG from uki.efi .initrd" in refusal.where


def check_of(served: Guest) -> Check:
    predicate = prediction(served)

    def check(document: bytes, nonce: bytes, key: bytes) -> Judgement:
        return attested.judge(
            document,
            Expected(predicate, Built("out")),
            samples.SIMULATED,
            now=int(time.time()),
            nonce=nonce,
            tls_spki_sha256=key,
        )

    return check


def test_the_proxy_reaches_its_engine(served: Guest) -> None:
    with proxied(Gate(url(served), check_of(served))) as port:
        assert ask(port, "/v1/chat/completions", b'{"messages":[]}') == (200, {"choices": []})
    assert served.engine.requests[-1][2] == b'{"messages": [], "cache_prompt": false}'


def test_a_kept_connection_to_the_agent_asks_whether_a_body_is_read(
    served: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent says `100 Continue` before it reads a body, also of one that has arrived already."""
    monkeypatch.setattr(kept, "_RESTED", 0.0)
    heard: list[bytes] = []
    receive = kept._Connection.data_received

    def data_received(self: Any, data: bytes) -> None:
        heard.append(data)
        receive(self, data)

    monkeypatch.setattr(kept._Connection, "data_received", data_received)
    with proxied(Gate(url(served), check_of(served))) as port:
        for _ in range(3):
            assert ask(port, "/v1/chat/completions", b'{"messages":[]}') == (200, {"choices": []})
    starts = [data[:12] for data in heard if data.startswith(b"HTTP/1.1 ")]
    # The first answer is the record of the channel's keys, which the three requests are sealed for.
    assert starts == [b"HTTP/1.1 200", *[b"HTTP/1.1 100", b"HTTP/1.1 200"] * 3]


def test_a_booting_guest_reports_its_stages() -> None:
    with guest() as made:
        made.start_server()
        boot = made.boot(engine_wait=0.1)
        made.engine.completion_status = 500
        assert not boot.run()
        made.connect().close()
        with pytest.raises(HostError, match="is not ready") as caught:
            attested.fetch(url(made), bytes(32), 10)
        assert "failed" in caught.value.message
