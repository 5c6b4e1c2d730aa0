"""A courier between servers that fail it, with a broker that releases whatever is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from key_guest import Waiting, guest_at

from privml.base.errors import Refused
from privml.channel.release import Request
from privml.client import courier as couriers
from privml.client.connection import Endpoint
from privml.client.courier import RELEASE_PATH, REQUEST_PATH, Courier, Delivery, courier
from privml.evidence.document import MAX_DOCUMENT

A, B = ("data/a", 1), ("data/b", 2)
KEY = bytes(32)
BROKER = "http://broker"
Answer = tuple[int, object]


def error(code: str) -> object:
    return {"error": {"code": code, "message": "as the test wants"}}


class Open(Waiting):
    """A guest that takes a list of keys as a release. ``meanwhile`` is what happens before it gets one."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def _take(self, body: bytes) -> tuple[int, bytes]:
        self.meanwhile()
        names = [(name, number) for name, number in json.loads(body)]
        if self.closed:
            return 503, json.dumps(error("keys-closed")).encode()
        if any(name in self.keys for name in names):
            return 409, json.dumps(error("already-released")).encode()
        self.keys.update(dict.fromkeys(names, b""))
        left = [{"broker": name, "resource": r, "generation": g} for _, name, r, g in self.missing()]
        taken = [{"resource": r, "generation": g} for r, g in names]
        return 200, json.dumps({"released": taken, "missing": left}).encode()


class Servers:
    """A guest, a broker that answers ``first`` to requests before it releases, and a clock."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = Open({"owner": (KEY, [A, B])})
        self.first: list[Answer] = []
        self.asked: list[tuple[bytes, list[tuple[str, int]]]] = []
        self.nonces = 0
        self.now = 0.0
        self._place = place
        monkeypatch.setattr(couriers, "_post_plain", self._post)

    def deliver(self) -> Delivery:
        with guest_at(self.guest, self._place / "guest") as url:
            return self.courier(url).deliver()

    def courier(self, url: str) -> Courier:
        return courier(url, [BROKER], patience=20.0, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _post(self, _: Endpoint, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/challenge":
            self.nonces += 1
            return 200, json.dumps({"nonce": f"{self.nonces:064x}", "broker": KEY.hex()}).encode()
        request = Request.decode(body, limit=2 * MAX_DOCUMENT)
        self.asked.append((request.nonce, list(request.resources)))
        status, answer = self.first.pop(0) if self.first else (200, list(request.resources))
        return status, json.dumps(answer).encode()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    return Servers(tmp_path, monkeypatch)


def others_bring(servers: Servers, *names: tuple[str, int], closed: str = "") -> None:
    """Another courier is faster with these keys, once."""

    def meanwhile() -> None:
        servers.guest.keys.update(dict.fromkeys(names, b""))
        servers.guest.closed = closed

    servers.guest.meanwhile = meanwhile


def test_what_another_courier_brought_is_not_asked_for_again(servers: Servers) -> None:
    """Otherwise whoever brings one of two keys would keep the other one away for ever."""
    others_bring(servers, A)
    done = servers.deliver()
    assert (done.released, done.missing, done.errors, done.refused) == ([A, B], [], {}, False)
    assert [resources for _, resources in servers.asked] == [[A, B], [B]]


@pytest.mark.parametrize(("status", "delivered"), [("ok", True), ("failed", False)])
def test_a_stage_that_is_over_has_its_keys_or_has_failed(status: str, delivered: bool, servers: Servers) -> None:
    others_bring(servers, A, B, closed=status)
    done = servers.deliver()
    assert (done.released == [A, B], not done.missing, not done.errors) == (delivered,) * 3
    assert done.refused is not delivered


def test_an_answer_that_got_lost_is_a_delivery_all_the_same(servers: Servers) -> None:
    servers.guest.first = {RELEASE_PATH: [(503, "unavailable")]}
    others_bring(servers, A, B)
    done = servers.deliver()
    assert (done.released, done.missing, done.errors) == ([A, B], [], {})


def test_a_guest_that_contradicts_itself_is_asked_once(servers: Servers) -> None:
    """Each release counts for the owner's policy."""
    servers.guest.first = {RELEASE_PATH: [(409, "already-released")] * 9}
    done = servers.deliver()
    assert (done.released, len(done.missing), done.refused, len(servers.asked)) == ([], 2, True, 1)


def test_a_nonce_that_is_used_up_while_the_broker_is_busy_is_replaced(servers: Servers) -> None:
    servers.first = [(503, error("supply")), (403, error("challenge"))]
    assert servers.deliver().missing == []
    assert [int.from_bytes(nonce, "big") for nonce, _ in servers.asked] == [1, 1, 2]


def test_a_nonce_that_is_refused_at_once_or_for_ever_is_said(servers: Servers) -> None:
    servers.first = [(403, error("challenge"))]
    done = servers.deliver()
    assert (done.errors, len(servers.asked)) == ({BROKER: "challenge: as the test wants"}, 1)
    servers.first = [(503, error("supply")), (403, error("challenge"))] * 100
    done = servers.deliver()
    assert (list(done.errors), done.refused, servers.now <= 3 * 20.0) == ([BROKER], True, True)


def test_a_guest_without_a_tee_is_not_waited_for(servers: Servers) -> None:
    servers.guest.first = {REQUEST_PATH: [(503, "no-tee")]}
    with pytest.raises(Refused, match="no-tee") as caught:
        servers.deliver()
    assert "--tdx" in str(caught.value.hint) and servers.now == 0
