"""The broker's HTTP server and the courier, over the network of this machine."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attestation_samples
import pytest
from broker_samples import RESOURCE, Desk, desk, guest, judge
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from key_guest import Waiting, broker_at, guest_at, waiting
from terminator_certificate import certificate

from privml.base.errors import HostError, Refused, UsageError
from privml.channel.kem import X25519
from privml.channel.release import Request
from privml.client import courier as couriers
from privml.client.connection import Endpoint
from privml.client.courier import RELEASE_PATH, REQUEST_PATH, courier
from privml.keybroker import server
from privml.verify.judgement import Judgement


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "broker").mkdir()
    with desk(tmp_path / "broker") as found:
        yield found


def post(port: int, path: str, body: bytes = b"", method: str = "POST") -> tuple[int, Any, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, json.loads(data) if data.startswith(b"{") else data, response


def asked(port: int) -> Request:
    """A request of an honest guest, with a nonce of the broker at ``port``."""
    nonce = bytes.fromhex(post(port, server.CHALLENGE)[1]["nonce"])
    return Request(nonce, guest(X25519).document(nonce).encode(), ((RESOURCE, 1),))


def test_a_challenge_and_a_release_over_http(made: Desk) -> None:
    with broker_at(made) as port:
        status, told, response = post(port, server.CHALLENGE)
        assert (status, told["broker"], len(told["nonce"])) == (200, made.store.public.hex(), 64)
        assert response.getheader("Cache-Control") == "no-store"
        assert response.getheader("Server") is None
        assert set(post(port, server.RELEASE, asked(port).encode())[1]) == {"sealed", "signature", "statement"}


NOTHING_ELSE: tuple[tuple[str, str, bytes, int], ...] = (
    ("GET", "/v1/challenge", b"", 405),
    ("GET", "/v1/release", b"", 405),
    ("POST", "/v1/release", b"{}", 400),
    ("POST", "/v1/release", b" " * (1024 * 1024 + 1), 413),
    ("POST", "/", b"", 404),
    ("POST", "/v1/rotate", b"", 404),
    ("GET", "/v1/log", b"", 404),
)


def test_nothing_else_is_answered(made: Desk) -> None:
    with broker_at(made) as port:
        for method, path, body, status in NOTHING_ELSE:
            assert post(port, path, body, method)[0] == status, (method, path)


def test_more_documents_than_are_judged_at_once_are_503(made: Desk) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(document: bytes, nonce: bytes) -> Judgement:
        entered.release()
        assert go_on.wait(10)
        return judge(document, nonce)

    made.broker.judge = slow
    found: list[int] = []
    with broker_at(made) as port:
        requests = [asked(port).encode() for _ in range(server.VERDICTS + 1)]
        threads = [
            threading.Thread(target=lambda body=body: found.append(post(port, server.RELEASE, body)[0]))
            for body in requests[:-1]
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert entered.acquire(timeout=10)
        status, told, response = post(port, server.RELEASE, requests[-1])
        go_on.set()
        for thread in threads:
            thread.join()
        assert (status, told["error"]["code"], response.getheader("Retry-After")) == (503, "busy", "1")
        assert found == [200] * server.VERDICTS
        assert post(port, server.RELEASE, requests[-1])[0] == 200, "its nonce was not used up"


def test_tls_is_served_with_a_certificate(made: Desk, tmp_path: Path) -> None:
    found = certificate(tmp_path)
    with broker_at(made, server.Tls(found, tmp_path / "key.pem")) as port:
        context = ssl.create_default_context(cafile=str(found))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        connection.request("POST", server.CHALLENGE)
        assert connection.getresponse().status == 200
        connection.close()
        with guest_at(waiting(made), tmp_path / "guest") as url:
            done = Said(url, f"https://127.0.0.1:{port}").courier.deliver()
        assert done.released == [(RESOURCE, 1)], "a courier needs no authority for it"
    with pytest.raises(HostError, match="are not a certificate and its key"):
        server.serve(("127.0.0.1", 0), made.broker, tls=server.Tls(tmp_path / "key.pem", found))


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Gives a broker an address at which couriers reach it without a network."""
    desks: dict[str, Desk] = {}

    def post(where: Endpoint, path: str, body: bytes) -> tuple[int, bytes]:
        broker = desks[where.host].broker
        answer = broker.challenge() if path == server.CHALLENGE else broker.release(body)
        return answer.status, answer.body

    def reached(found: Desk) -> str:
        name = f"broker-{len(desks)}"
        desks[name] = found
        monkeypatch.setattr(couriers, "_post_plain", post)
        return f"http://{name}"

    return reached


Reach = Callable[..., str]


class Said:
    """A courier with the lines that it said, which does not wait in real time."""

    def __init__(self, url: str, *brokers: str, patience: float = 20.0) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.courier = courier(
            url, brokers, patience=patience, said=self.lines.append, clock=lambda: self.now, sleep=self.sleep
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def test_a_courier_carries_a_key_to_the_guest(made: Desk, tmp_path: Path) -> None:
    found = waiting(made)
    with broker_at(made) as port, guest_at(found, tmp_path / "guest") as url:
        said = Said(url, f"http://127.0.0.1:{port}")
        done = said.courier.deliver()
    assert (done.released, done.missing, done.errors) == ([(RESOURCE, 1)], [], {})
    assert found.keys == {(RESOURCE, 1): made.key.key}
    assert found.asked == [f"GET {REQUEST_PATH}", f"GET {REQUEST_PATH}", f"POST {RELEASE_PATH}"]
    assert "asking for model/qwen generation 1 of broker owner-0" in said.text
    assert made.key.key.hex() not in said.text


def test_two_brokers_release_to_one_guest(made: Desk, tmp_path: Path, reach: Reach) -> None:
    (tmp_path / "other").mkdir()
    with desk(tmp_path / "other", signer=Ed25519PrivateKey.generate()) as other:
        found = Waiting(
            {"data": (other.store.public, [("data/x", 1)]), "weights": (made.store.public, [(RESOURCE, 1)])}
        )
        with guest_at(found, tmp_path / "guest") as url:
            said = Said(url, reach(other), reach(made))
            done = said.courier.deliver()
    assert done.released == [(RESOURCE, 1)], "the refusal of one does not stop the other"
    assert [str(each) for each in done.missing] == ["data/x generation 1 of broker data"]
    (refused,) = done.refusals.values()
    assert [each["code"] for each in refused] == ["release-resource"]
    assert done.to_dict()["missing"] == [{"broker": "data", "resource": "data/x", "generation": 1}]


def test_a_broker_that_the_guest_does_not_wait_for_is_not_asked_for_keys(
    made: Desk, tmp_path: Path, reach: Reach
) -> None:
    (tmp_path / "other").mkdir()
    with desk(tmp_path / "other", signer=Ed25519PrivateKey.generate()) as other:
        with guest_at(waiting(made), tmp_path / "guest") as url:
            done = Said(url, reach(other)).courier.deliver()
        assert len(other.entries()) == 3, "nothing is refused, because nothing was asked"
        (message,) = done.errors.values()
        assert message.startswith(f"this is broker {other.store.public.hex()}, expected one that the guest waits for")


def test_a_guest_that_is_not_at_the_stage_yet_is_waited_for(made: Desk, tmp_path: Path, reach: Reach) -> None:
    found = waiting(made)
    found.first = {
        REQUEST_PATH: [(503, "keys-not-yet")] * 3,
        RELEASE_PATH: [(429, "too-soon")],
    }
    with guest_at(found, tmp_path / "guest") as url:
        said = Said(url, reach(made))
        assert said.courier.deliver().missing == []
    assert said.now == 4 * couriers.PAUSE
    assert said.text.count("keys-not-yet") == 1, "said once, not at each attempt"


def test_a_guest_that_never_gets_there_is_given_up(made: Desk, tmp_path: Path) -> None:
    found = waiting(made)
    found.first = {REQUEST_PATH: [(503, "keys-not-yet")] * 100}
    with guest_at(found, tmp_path / "guest") as url:
        said = Said(url, "http://127.0.0.1:1", patience=4.0)
        with pytest.raises(HostError, match="keys-not-yet: as the test wants"):
            said.courier.deliver()
    assert said.now == 4.0


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        (REQUEST_PATH, (404, "no-keys"), "no-keys"),
        (REQUEST_PATH, (503, "keys-closed"), "keys-closed"),
    ],
)
def test_a_guest_that_wants_no_keys_is_not_waited_for(
    path: str, answer: tuple[int, str], said: str, made: Desk, tmp_path: Path
) -> None:
    found = waiting(made)
    found.first = {path: [answer]}
    with guest_at(found, tmp_path / "guest") as url, pytest.raises(Refused, match=said):
        Said(url, "http://127.0.0.1:1").courier.deliver()


def test_what_the_guest_refuses_is_said(made: Desk, tmp_path: Path, reach: Reach) -> None:
    found = waiting(made)
    found.first = {RELEASE_PATH: [(409, "already-released")]}
    with guest_at(found, tmp_path / "guest") as url:
        done = Said(url, reach(made)).courier.deliver()
    assert [message.partition(": ")[2] for message in done.errors.values()] == ["already-released: as the test wants"]
    assert [each.resource for each in done.missing] == [RESOURCE]


def test_a_wrong_image_gets_nothing_and_the_courier_says_why(made: Desk, tmp_path: Path, reach: Reach) -> None:
    found = waiting(made)
    found.bent = {"items": attestation_samples.extends(4 << 30, "console=ttyS0 init=/bin/sh")}
    with guest_at(found, tmp_path / "guest") as url:
        said = Said(url, reach(made))
        done = said.courier.deliver()
    assert (done.released, found.keys) == ([], {})
    assert "rtmr2: got " in said.text
    assert made.entries()[-1]["codes"] == ["rtmr2"]


def test_a_courier_that_replays_a_release_at_another_boot_opens_nothing(made: Desk, tmp_path: Path) -> None:
    one, two = waiting(made), waiting(made)
    nonce = made.nonce()
    _, _, body = made.send(Request(nonce, one.identity.document(nonce).encode(), ((RESOURCE, 1),)))
    assert two.answer("POST", RELEASE_PATH, body)[0] == 400
    assert one.answer("POST", RELEASE_PATH, body)[0] == 200, "positive control"


def test_a_broker_that_cannot_be_reached_is_named(made: Desk, tmp_path: Path) -> None:
    with guest_at(waiting(made), tmp_path / "guest") as url:
        done = Said(url, "http://127.0.0.1:1").courier.deliver()
    assert done.errors["http://127.0.0.1:1"].startswith("http://127.0.0.1:1: connection refused")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": {}}', b'{"error": {"code": "\\u001b[1m", "message": "a"}}'])
def test_an_error_of_a_server_is_read_as_untrusted_text(body: bytes) -> None:
    code, message, refusals = couriers.read_error(body)
    assert (code.isprintable(), message.isprintable(), refusals) == (True, True, [])


def test_a_courier_needs_addresses() -> None:
    for guest_url, brokers in (("https://h", []), ("http://h", ["http://b"]), ("https://h", ["b"])):
        with pytest.raises(UsageError):
            courier(guest_url, brokers)
