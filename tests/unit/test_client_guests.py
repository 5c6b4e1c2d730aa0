"""Several guests behind one proxy: which one gets a request, and which one never does."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import attestation_samples as samples
import guest_fake
import pytest
from proxy_thread import proxied
from test_client_proxy import SECRET, ask, check

from privml.base.errors import HostError, PrivmlError, Refused, UsageError
from privml.client import attested, proxy
from privml.client.gate import Decision, Gate
from privml.client.guests import MAX_GUESTS, Guest, Guests, NotOpen
from privml.client.ways import Answer, Asked, Headers, Judged, Unsent
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

ACCEPTED = samples.judge()
OTHER_KEY = samples.judge(samples.document(spki=bytes(32)), tls_spki_sha256=bytes(32))
REFUSED = samples.judge(policy=Policy())
POST = Asked("POST", "/v1/chat/completions", (), b"{}")
A, B = "https://a:1", "https://b:1"


BUSY = b'{"error":{"code":"busy","message":"at once","type":"privml"}}\n'
"""The refusal of an agent."""


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 20):
        yield body[at : at + 20]


class Road:
    """A way that notes what it gets, and answers with a status or an error."""

    def __init__(self) -> None:
        self.results: list[int | PrivmlError] = []
        self.judged: list[Judged] = []
        self.settlements: list[Decision] = []
        self.closed = 0
        self.headers: Headers = ()
        self.refusal = BUSY

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        assert asked is POST
        self.judged.append(judged)
        result = self.results.pop(0) if self.results else 200
        if isinstance(result, PrivmlError):
            raise result
        body = self.refusal if result in (429, 503) else b""
        headers = (*self.headers, (b"content-length", str(len(body)).encode())) if body else self.headers
        return Answer(judged, result, headers, pieces_of(body), close=self._close)

    def _close(self) -> None:
        self.closed += 1

    def settled(self, decision: Decision) -> None:
        self.settlements.append(decision)

    def close(self) -> None:
        pass


class World:
    """What each address says when it is verified, and how often it was."""

    def __init__(self) -> None:
        self.says: dict[str, Judgement | PrivmlError] = {A: ACCEPTED, B: ACCEPTED}
        self.fetches: dict[str, int] = {A: 0, B: 0}
        self.held: dict[str, threading.Event] = {}
        self.on: dict[str, Callable[[], None]] = {}
        self.now = 0.0

    def guests(self, *urls: str) -> tuple[Guests, list[Road]]:
        made = [Guest(self.gate(url), Road()) for url in urls or (A, B)]
        return Guests(made), [guest.way for guest in made]  # type: ignore[misc]

    def gate(self, url: str) -> Gate:
        judged: list[Judgement] = []

        def fetch() -> None:
            self.fetches[url] += 1
            result = self.says[url]
            if url in self.held:
                assert self.held[url].wait(30)
            if isinstance(result, PrivmlError):
                raise result
            judged.append(result)

        self.on[url] = fetch
        return Gate(url, lambda *_: judged[-1], clock=lambda: self.now)

    def fetch(self, url: str, *_: object) -> attested.Fetched:
        self.on[url]()
        return attested.Fetched(b"", b"")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(attested, "fetch", made.fetch)
    yield made
    for event in made.held.values():
        event.set()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def sent(guests: Guests) -> int:
    answer = await guests.send(POST)
    answer.close()
    return answer.status


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def open_all(guests: Guests) -> None:
    for guest in guests.all:
        assert guest.gate.decide().open


def test_requests_go_to_the_least_busy_guest(world: World) -> None:
    guests, (a, b) = world.guests()
    open_all(guests)

    async def work() -> None:
        first = await guests.send(POST)
        assert first.judged.where == guests.all[0].gate.upstream
        assert [await sent(guests) for _ in range(3)] == [200] * 3
        assert (len(a.judged), len(b.judged)) == (1, 3)
        first.close()
        first.close()
        assert [guest.busy for guest in guests.all] == [0, 0]
        assert [await sent(guests) for _ in range(4)] == [200] * 4
        assert (len(a.judged), len(b.judged)) == (3, 5), "idle ones take turns"

    run(work())


def test_a_refused_guest_gets_nothing(world: World) -> None:
    guests, (a, b) = world.guests()
    world.says[B] = REFUSED
    guests.all[0].gate.decide()

    async def work() -> None:
        for _ in range(3):
            assert await sent(guests) == 200
        await until(lambda: guests.all[1].gate.last is not None)
        assert [judged.where for judged in guests.judged] == [guests.all[0].gate.upstream]
        assert await sent(guests) == 200
        world.now, world.says[A] = 601.0, HostError("nobody answers")
        with pytest.raises(NotOpen) as caught:
            await guests.send(POST)
        assert caught.value.unavailable
        assert "https://a:1: nobody answers" in caught.value.message
        assert f"https://b:1: {guests.all[1].gate.decide().message}" in caught.value.message
        world.now, world.says[A] = 700.0, REFUSED
        with pytest.raises(NotOpen) as caught:
            await guests.admit()
        assert not caught.value.unavailable
        assert [refusal.code for refusal in caught.value.refusals] == ["simulated", "simulated"]

    run(work())
    assert (len(a.judged), b.judged) == (4, [])


def test_the_first_accepted_guest_answers_while_others_are_verified(world: World) -> None:
    guests, (a, b) = world.guests()
    world.held[A] = threading.Event()

    async def work() -> None:
        assert await sent(guests) == 200
        assert (len(a.judged), len(b.judged)) == (0, 1)

    run(work())


def test_a_guest_that_cannot_be_reached_is_left_until_it_is_verified_again(world: World) -> None:
    guests, (a, b) = world.guests()
    open_all(guests)
    a.results, world.says[A] = [Unsent("no connection")], HostError("nobody answers")
    world.now = 10.0

    async def work() -> None:
        for _ in range(4):
            assert await sent(guests) == 200
        assert (len(a.judged), len(b.judged)) == (1, 4)
        await until(lambda: world.fetches[A] == 2)
        world.now, world.says[A] = 13.0, ACCEPTED
        await sent(guests)
        await until(lambda: guests.all[0].well(guests.all[0].gate.decide()))
        await sent(guests)
        assert (len(a.judged), len(b.judged)) == (2, 5)

    run(work())


def test_what_may_have_run_goes_to_no_other_guest(world: World) -> None:
    guests, (a, b) = world.guests()
    open_all(guests)
    a.results = [HostError("closed")]

    async def work() -> None:
        with pytest.raises(HostError, match="closed"):
            await guests.send(POST)
        assert (len(a.judged), len(b.judged)) == (1, 0)
        assert await sent(guests) == 200
        assert len(b.judged) == 1

    run(work())
    assert [guest.busy for guest in guests.all] == [0, 0]


@pytest.mark.parametrize("status", [429, 503])
def test_a_guest_that_is_busy_or_not_ready_is_passed_over(world: World, status: int) -> None:
    guests, (a, b) = world.guests()
    open_all(guests)
    a.results = [status, status]

    async def work() -> None:
        assert await sent(guests) == 200
        assert (len(a.judged), len(b.judged), a.closed) == (1, 1, 1)
        b.results = [status]
        assert await sent(guests) == status, "the last one's answer is passed on"

    run(work())


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[1]",
        b"busy",
        b'{"error":{"code":"busy","type":"server_error"}}',
        b'{"error":{"code":"","type":"privml"}}',
        b'{"error":"privml"}',
        b" " * (256 * 1024) + BUSY,
    ],
    ids=lambda body: str(body[:40]),
)
def test_what_an_engine_or_a_service_refuses_goes_to_no_other_guest(world: World, status: int, body: bytes) -> None:
    """It may have done something before it answered."""
    guests, (a, b) = world.guests()
    open_all(guests)
    a.results, a.refusal = [status], body

    async def work() -> None:
        answer = await guests.send(POST)
        assert (answer.status, b"".join([piece async for piece in answer.pieces])) == (status, body)
        answer.close()
        assert (len(a.judged), b.judged, a.closed) == (1, [], 1)

    run(work())


def test_a_guest_does_not_set_the_headers_of_the_proxy(world: World) -> None:
    """A service in the image could say that its answer's receipt was checked."""
    guests, (a,) = world.guests(A)
    open_all(guests)
    a.headers = ((b"x-privml-receipt", b"0" * 32), (b"x-request-id", b"1"))

    async def work() -> None:
        answer = await guests.send(POST)
        assert answer.headers == ((b"x-request-id", b"1"),)
        answer.close()

    run(work())


@pytest.mark.parametrize("failure", [Unsent("no connection"), HostError("closed"), 503])
def test_the_only_guest_is_asked_all_the_same(world: World, failure: PrivmlError | int) -> None:
    guests, (a,) = world.guests(A)
    a.results = [failure, 200]

    async def work() -> None:
        if isinstance(failure, int):
            assert await sent(guests) == failure
        else:
            with pytest.raises(type(failure), match=failure.message):
                await guests.send(POST)
        assert await sent(guests) == 200

    run(work())


def test_another_key_is_verified_while_another_guest_answers(world: World) -> None:
    guests, (a, b) = world.guests()
    open_all(guests)
    world.held[A] = threading.Event()
    a.results, world.says[A] = [Refused("tls-key")], OTHER_KEY

    async def work() -> None:
        assert await sent(guests) == 200
        assert (len(a.judged), len(b.judged)) == (1, 1)
        assert await sent(guests) == 200
        world.held[A].set()
        await until(lambda: guests.all[0].gate.last is not None)
        await until(lambda: guests.all[0].busy == 0)
        assert await sent(guests) == 200
        assert a.judged[-1].decision.keys == OTHER_KEY.keys

    run(work())


def test_a_guest_that_shows_another_key_than_it_attests_is_refused(world: World) -> None:
    guests, (a,) = world.guests(A)
    a.results = [Refused("tls-key: got"), Refused("tls-key: got")]

    async def work() -> None:
        with pytest.raises(Refused, match="tls-key: got"):
            await guests.send(POST)

    run(work())
    assert world.fetches[A] == 2


def test_a_renewal_stalls_nobody(world: World) -> None:
    guests, (a,) = world.guests(A)
    open_all(guests)
    world.now, world.held[A] = 301.0, threading.Event()

    async def work() -> None:
        for _ in range(3):
            assert await sent(guests) == 200
        await until(lambda: world.fetches[A] == 2)

    run(work())
    assert len(a.judged) == 3


def test_a_client_that_leaves_before_the_answer_ends_the_request(world: World) -> None:
    guests, (a,) = world.guests(A)
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]
    ended: list[str] = []

    async def hangs(asked: Asked, _: Judged) -> Answer:
        assert asked.body == b"{}"
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(asked.target)
        raise AssertionError

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return messages.pop(0)

    async def send(message: object) -> None:
        raise AssertionError(message)

    async def work() -> None:
        a.send = hangs  # type: ignore[method-assign]
        scope = {"type": "http", "method": "POST", "raw_path": b"/v1/x", "query_string": b"", "headers": []}
        await proxy._Forwarding(guests, None)(scope, receive, send)

    run(work())
    assert (ended, messages, guests.all[0].busy) == (["/v1/x"], [], 0)


def test_ways_learn_what_each_verification_settled(world: World) -> None:
    guests, (a,) = world.guests(A)

    async def work() -> None:
        first = asyncio.Event()
        task = asyncio.create_task(guests.keep_fresh(first))
        await first.wait()
        world.says[A] = REFUSED
        closed = await asyncio.to_thread(guests.all[0].gate.decide, fresh=True)
        await until(lambda: len(a.settlements) == 2)
        assert [one.open for one in a.settlements] == [True, False]
        assert a.settlements[-1] is closed
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(work())


def test_the_proxy_serves_once_one_guest_is_accepted(world: World) -> None:
    guests, _ = world.guests()
    world.held[A] = threading.Event()

    async def work() -> None:
        first = asyncio.Event()
        task = asyncio.create_task(guests.keep_fresh(first))
        await asyncio.wait_for(first.wait(), 10)
        world.held[A].set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(work())


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], f"got 0 guests, expected 1 to {MAX_GUESTS}"),
        ([f"https://h:{port}" for port in range(1, MAX_GUESTS + 2)], f"got {MAX_GUESTS + 1} guests"),
        (["https://h", "https://h:8443/"], "given twice"),
    ],
)
def test_wrong_numbers_of_guests_are_named(urls: Sequence[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Guests.at(urls, check())


# --- with real guests -----------------------------------------------------------------------------------------------


def health(port: int) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def until_accepted(port: int, words: str) -> Any:
    end = time.monotonic() + 10
    while not (found := health(port)[1])["message"].startswith(words) or "not verified yet" in str(found):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_one_of_two_guests_dies_and_the_next_request_is_answered() -> None:
    with guest_fake.running(guest_fake.Guest()) as living, guest_fake.running(guest_fake.Guest()) as dying:
        guests = Guests.at([dying.url, living.url], check())
        with proxied(guests) as port:
            until_accepted(port, "2 of 2")
            for _ in range(4):
                assert ask(port) == (200, {"echo": SECRET})
            assert (len(dying.requests), len(living.requests)) == (2, 2)
            dying.die()
            for _ in range(4):
                assert ask(port) == (200, {"echo": SECRET})
            assert (len(dying.requests), len(living.requests)) == (2, 6)
            status, found = health(port)
    assert (status, found["open"], [one["url"] for one in found["guests"]]) == (
        200,
        True,
        [guests.all[0].url, guests.all[1].url],
    )
    assert found["message"].endswith("of 2 guests are accepted")


def test_an_impostor_among_the_guests_gets_nothing() -> None:
    """One address has another image, and one relays the document of an honest guest."""
    with (
        guest_fake.running(guest_fake.Guest()) as honest,
        guest_fake.running(guest_fake.Guest()) as other,
        guest_fake.running(guest_fake.Guest()) as relay,
    ):
        other.items = samples.extends(4 << 30, "evil")
        relay.claimed_spki = honest.spki
        with proxied(Guests.at([other.url, relay.url, honest.url], check())) as port:
            for _ in range(6):
                assert ask(port) == (200, {"echo": SECRET})
            found = until_accepted(port, "1 of 3")
            assert [one["open"] for one in found["guests"]] == [False, False, True]
    assert (other.requests, relay.requests, len(honest.requests)) == ([], [], 6)
