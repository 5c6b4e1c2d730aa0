"""The real agent (attestor and server processes, simulated platform) judged by the real client, and behind the proxy.

The prediction is made here from what the agent was given, not from what it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attestation_samples as samples
import openai_answers
import pytest
from agent_gate import check_of, gate, url
from agent_guest import Guest, guest, prediction
from html_page import Page
from test_client_proxy import ask, proxied

from privml.base.errors import HostError
from privml.channel.receipt import Usage
from privml.client import attested, exchange
from privml.client import kept as kept_connections
from privml.client.gate import Gate
from privml.client.receipts import Receipts
from privml.events.registers import RTMR2
from privml.events.replay import replay_digests
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome, Verdict


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()  # waits for the server
        yield made


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


def test_the_proxy_reaches_its_engine(served: Guest) -> None:
    with proxied(gate(served)) as port:
        assert ask(port, "/v1/chat/completions", b'{"messages":[]}') == (200, {"choices": []})
    assert served.engine.requests[-1][2] == b'{"messages": [], "cache_prompt": false}'


def test_an_unmodified_openai_client_asks_and_streams_in_both_of_its_forms(
    served: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = pytest.importorskip("openai")
    monkeypatch.setattr(served.engine, "chat", openai_answers.WHOLE)
    monkeypatch.setattr(served.engine, "events", openai_answers.EVENTS)
    chat: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "The capital of France?"}]}
    streamed = {**chat, "stream": True, "stream_options": {"include_usage": True}}

    def said(chunks: list[Any]) -> str:
        assert chunks[-1].usage.total_tokens == openai_answers.USAGE["total_tokens"]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    async def ask_async(base_url: str) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(**chat)
            assert whole.choices[0].message.content == openai_answers.SAID
            stream = await client.chat.completions.create(**streamed)
            assert said([chunk async for chunk in stream]) == openai_answers.SAID

    with proxied(gate(served)) as port:
        base_url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            assert client.chat.completions.create(**chat).choices[0].message.content == openai_answers.SAID
            assert said(list(client.chat.completions.create(**streamed))) == openai_answers.SAID
            with pytest.raises(openai.BadRequestError, match="`service_tier` is not supported"):
                client.chat.completions.create(**chat, service_tier="flex")
        asyncio.run(ask_async(base_url))


def test_a_kept_connection_to_the_agent_asks_whether_a_body_is_read(
    served: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent says `100 Continue` before it reads a body, also of one that has arrived already."""
    monkeypatch.setattr(kept_connections, "_RESTED", 0.0)
    heard: list[bytes] = []
    ended = threading.Semaphore(0)
    receive, done = kept_connections._Connection.data_received, kept_connections._Connection.done

    def data_received(self: Any, data: bytes) -> None:
        heard.append(data)
        receive(self, data)

    def done_and_said(self: Any) -> None:
        done(self)
        ended.release()

    monkeypatch.setattr(kept_connections._Connection, "data_received", data_received)
    monkeypatch.setattr(kept_connections._Connection, "done", done_and_said)
    with (
        proxied(gate(served)) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client,
    ):
        for number in range(3):
            client.request("POST", "/v1/chat/completions", b'{"messages":[]}', {"content-type": "application/json"})
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"choices":[]}')
            # The content is here before the answer's end, which makes the connection idle. A client that leaves
            # between them has it closed.
            for _ in range(2 if number == 0 else 1):
                assert ended.acquire(timeout=10)
    # The first answer is the record of the channel's keys, which the three requests are sealed for.
    statuses = re.findall(rb"HTTP/1\.1 ([0-9]{3})", b"".join(heard))
    assert statuses == [b"200", *[b"100", b"200"] * 3]


@pytest.fixture
def kept(served: Guest, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a proxy that keeps receipts and bodies, and their folder."""
    receipts = Receipts(tmp_path / "kept", keep_bodies=True)
    check = receipts.watching(check_of(served), lambda _: None)
    with proxied(Gate(url(served), check), receipts=receipts) as port:
        yield port, tmp_path / "kept"


def verdict_of(served: Guest, folder: Path, name: str) -> exchange.Judged:
    """What a third person finds in the files of one answer."""
    return exchange.judge(
        exchange.decode((folder / f"{name}.json").read_bytes()),
        Expected(prediction(served), Built("out")),
        samples.SIMULATED,
        at=int(time.time()),
        request=exchange.body_of(folder / f"{name}.request"),
        response=exchange.body_of(folder / f"{name}.response"),
    )


def page_of(port: int) -> str:
    """The text of the proxy's page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return Page(connection.getresponse().read().decode()).text
    finally:
        connection.close()


def post(port: int, body: bytes) -> tuple[str, bytes]:
    """The id of the receipt of one answer, and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        return response.getheader("x-privml-receipt") or "", response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("body", [b'{"prompt":"hi"}', b'{"prompt":"hi","stream":true}'])
def test_a_third_person_verifies_a_receipt_of_the_agent(served: Guest, kept: tuple[int, Path], body: bytes) -> None:
    port, folder = kept
    name, answer = post(port, body)
    assert (folder / f"{name}.request").read_bytes() == body
    assert (folder / f"{name}.response").read_bytes() == answer
    found = verdict_of(served, folder, name)
    assert (found.verdict.outcome, found.verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())
    assert found.receipt is not None
    assert found.receipt.id.hex() == name
    (folder / f"{name}.response").write_bytes(answer[:-1])
    assert [each.code for each in verdict_of(served, folder, name).verdict.refusals] == ["response-hash"]
    assert name in page_of(port)


@pytest.mark.parametrize(
    ("pieces", "body"),
    [(1, b'{"prompt":"hi","stream":true}'), (0, b'{"prompt":"hi","stream":true}'), (0, b'{"prompt":"hi"}')],
)
def test_an_answer_whose_engine_dies_is_kept_as_cut(
    served: Guest, kept: tuple[int, Path], pieces: int, body: bytes
) -> None:
    port, folder = kept
    served.engine.break_after = pieces
    try:
        with pytest.raises(http.client.IncompleteRead):
            post(port, body)
    finally:
        served.engine.break_after = None
    (file,) = folder.glob("*.json")
    found = verdict_of(served, folder, file.stem)
    assert [each.code for each in found.verdict.refusals] == ["receipt-incomplete"]
    assert file.with_suffix(".response").read_bytes() == b"data: one\n\n" * pieces


def test_an_unmodified_openai_client_does_not_notice_receipts(served: Guest, kept: tuple[int, Path]) -> None:
    """Neither behind the proxy nor before the agent itself, with trailers asked for."""
    openai = pytest.importorskip("openai")
    before, served.engine.events = served.engine.events, EVENTS
    headers = {"TE": "trailers", "privml-nonce": "5a" * 32}
    direct = openai.OpenAI(
        base_url=f"{url(served)}/v1", api_key="none", max_retries=0, default_headers=headers,
        http_client=openai.DefaultHttpxClient(verify=False, trust_env=False),
    )  # fmt: skip
    behind = openai.OpenAI(base_url=f"http://127.0.0.1:{kept[0]}/v1", api_key="none", max_retries=0)
    try:
        for client in (direct, behind):
            with client:
                found = client.completions.create(model="tiny", prompt="hi")
                assert found.choices[0].text == " Paris."
                stream = client.completions.create(model="tiny", prompt="hi", stream=True)
                assert [piece.choices[0].text for piece in stream if piece.choices] == ["one", "two"]
    finally:
        served.engine.events = before
    names = [path.stem for path in kept[1].glob("*.json")]
    kept_here = [verdict_of(served, kept[1], name).receipt for name in names]
    counted = {(each.content_type, each.usage) for each in kept_here if each is not None}
    assert counted == {("application/json", None), ("text/event-stream", Usage(3, 2))}


EVENTS = tuple(
    b"data: %s\n\n" % text
    for text in (
        b'{"id":"1","choices":[{"index":0,"text":"one"}]}',
        b'{"id":"1","choices":[{"index":0,"text":"two"}]}',
        b'{"id":"1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}',
        b"[DONE]",
    )
)


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
