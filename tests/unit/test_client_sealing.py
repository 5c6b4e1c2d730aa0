"""Requests to a guest that is reached directly: sealed inside its pinned connections where it has a channel."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import attestation_samples as samples
import pytest
from sealed_guest import X25519, SealedGuest, answered

from privml.base.errors import HostError, PrivmlError, Refused
from privml.channel.bhttp import Request
from privml.channel.ohttp import GATEWAY, KEY_PROBLEM
from privml.channel.record import PATH
from privml.channel.suites import CannotOpen
from privml.client.connection import Endpoint
from privml.client.gate import Decision
from privml.client.sealing import NotOpened, Sealed
from privml.client.ways import Answer, Asked, Judged

PROMPT = Asked("POST", "/v1/completions", ((b"content-type", b"application/json"), (b"te", b"trailers")), b"{}")
PROBLEM = json.dumps({"type": KEY_PROBLEM}).encode()


class Carrier:
    """A pinned connection to a guest, which it stands for."""

    def __init__(self, guest: SealedGuest) -> None:
        self.guest = guest
        self.asked: list[Asked] = []
        self.opened: list[Request] = []
        self.closed = 0
        self.record = lambda: self.guest.record
        self.outside: tuple[int, str, list[bytes]] | None = None

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        self.asked.append(asked)
        status, kind, pieces = self._answer(asked)
        return Answer(judged, status, ((b"content-type", kind.encode()),), _each(pieces), close=self._close)

    def settled(self, decision: Decision) -> None:
        pass

    def close(self) -> None:
        pass

    def _close(self) -> None:
        self.closed += 1

    def _answer(self, asked: Asked) -> tuple[int, str, list[bytes]]:
        if asked.target == PATH:
            return 200, "application/json", [self.record()]
        if asked.target == GATEWAY and self.outside is not None:
            return self.outside
        if asked.target != GATEWAY:
            return 200, "text/plain", [b"open"]
        try:
            request, opened = self.guest.open(dict(asked.headers)[b"content-type"].decode(), asked.body)
        except CannotOpen:
            return 400, "application/problem+json", [PROBLEM]
        self.opened.append(request)
        return 200, opened.form.response_type, answered(opened, [b"a", b"b"])

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def judged(guest: SealedGuest) -> Judged:
    made = samples.judge(guest.document())
    assert made.keys is not None
    return Judged(Endpoint("guest", 1), Decision(0.0, made))


def asked(way: Sealed, where: Judged, *requests: Asked) -> list[tuple[int, list[bytes]] | PrivmlError]:
    async def every() -> list[tuple[int, list[bytes]] | PrivmlError]:
        found: list[tuple[int, list[bytes]] | PrivmlError] = []
        for one in requests:
            try:
                answer = await way.send(one, where)
                found.append((answer.status, [piece async for piece in answer.pieces]))
                answer.close()
            except PrivmlError as error:
                found.append(error)
        return found

    return asyncio.run(every())


def test_every_request_is_sealed_and_the_record_fetched_once() -> None:
    guest = SealedGuest()
    carrier = Carrier(guest)
    assert asked(Sealed(carrier), judged(guest), PROMPT, PROMPT) == [(200, [b"a", b"b"])] * 2
    assert carrier.targets == [PATH, GATEWAY, GATEWAY]
    assert {request.line.path for request in carrier.opened} == {PROMPT.target}
    assert carrier.opened[0].fields == (("content-type", "application/json"),), "no fields of the connection"
    assert carrier.closed == 3


def test_a_guest_without_a_channel_is_asked_openly() -> None:
    guest = SealedGuest([X25519])
    carrier = Carrier(guest)
    where = Judged(Endpoint("guest", 1), Decision(0.0, samples.judge()))
    assert asked(Sealed(carrier), where, PROMPT) == [(200, [b"open"])]
    assert carrier.targets == [PROMPT.target]


def test_dropped_keys_are_fetched_again_once(caplog: pytest.LogCaptureFixture) -> None:
    guest = SealedGuest([X25519])
    carrier = Carrier(guest)
    way, where = Sealed(carrier), judged(guest)
    with caplog.at_level(logging.INFO, "privml"):
        asked(way, where, PROMPT)
        guest.rotate()
        assert asked(way, where, PROMPT) == [(200, [b"a", b"b"])]
    assert carrier.targets == [PATH, GATEWAY, GATEWAY, PATH, GATEWAY]
    assert "channel not post-quantum" in caplog.text
    old = guest.record
    guest.rotate()
    carrier.record = lambda: old
    (found,) = asked(way, where, PROMPT)
    assert isinstance(found, NotOpened)
    assert carrier.targets[-3:] == [GATEWAY, PATH, GATEWAY]


def test_nothing_is_sent_without_a_record_of_the_judged_guest() -> None:
    guest, other = SealedGuest([X25519]), SealedGuest([X25519])
    carrier = Carrier(guest)
    carrier.record = lambda: other.record
    (found,) = asked(Sealed(carrier), judged(guest), PROMPT)
    assert isinstance(found, Refused)
    carrier.record = lambda: b"<html>"
    (found,) = asked(Sealed(carrier), judged(guest), PROMPT)
    assert isinstance(found, HostError)
    assert carrier.targets == [PATH, PATH]


def test_another_boot_has_another_channel() -> None:
    one, two = SealedGuest([X25519]), SealedGuest([X25519])
    carrier = Carrier(one)
    way = Sealed(carrier)
    asked(way, judged(one), PROMPT)
    carrier.guest = two
    assert asked(way, judged(two), PROMPT) == [(200, [b"a", b"b"])]
    assert carrier.targets == [PATH, GATEWAY, PATH, GATEWAY]


def test_a_request_that_cannot_be_sealed_is_an_error_and_not_sent_openly() -> None:
    guest = SealedGuest([X25519])
    carrier = Carrier(guest)
    (found,) = asked(Sealed(carrier), judged(guest), Asked("POST", "/v1/x", ((b"accept", b"caf\xe9"),)))
    assert isinstance(found, HostError)
    assert "cannot be sealed" in found.message
    assert carrier.targets == [PATH]


@pytest.mark.parametrize("status", [400, 413, 429, 503])
def test_what_the_guest_says_over_its_own_connection_passes(status: int) -> None:
    guest = SealedGuest([X25519])
    carrier = Carrier(guest)
    carrier.outside = (status, "application/json", [b'{"error":', b"{}}"])
    ((got, pieces),) = asked(Sealed(carrier), judged(guest), PROMPT)  # type: ignore[misc]
    assert (got, b"".join(pieces)) == (status, b'{"error":{}}')
    carrier.outside = (200, "application/json", [b"{}"])
    (found,) = asked(Sealed(carrier), judged(guest), PROMPT)
    assert isinstance(found, HostError)
