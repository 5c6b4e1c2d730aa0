"""The proxy between a real HTTP client and a real TLS guest: what is refused leaves nothing on the other side."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import attestation_samples as samples
import guest_fake
import pytest
from guest_fake import Guest
from proxy_thread import proxied

from privml.base.errors import HostError, UsageError
from privml.client import attested, kept, proxy
from privml.client.gate import Gate
from privml.client.guests import Guests
from privml.engines import llama_requests
from privml.events import types
from privml.events.registers import RTMR2
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

SECRET = "the prompt that must not leave"
JSON = {"Content-Type": "application/json"}


def head(port: int, path: str, length: int) -> bytes:
    """The head of a POST, without its body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    return ("\r\n".join([*lines, f"Content-Length: {length}"]) + "\r\n\r\n").encode()


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        yield running


def check(policy: Policy = samples.SIMULATED) -> Any:
    def judge(document: bytes, nonce: bytes, key: bytes) -> Judgement:
        return attested.judge(document, samples.EXPECTED, policy, now=samples.NOW, nonce=nonce, tls_spki_sha256=key)

    return judge


def gate_for(guest: Guest, **options: Any) -> Gate:
    options = {"timeout": 5.0, **options}
    return Gate(guest.url, options.pop("check", check()), **options)


def ask(
    port: int, path: str = "/v1/chat/completions", body: bytes = SECRET.encode(), **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {**JSON, **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def nothing_left(guest: Guest) -> bool:
    return guest.requests == []


def test_an_attested_guest_gets_the_request_and_little_else(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        headers = {"Authorization": "Bearer sk-x", "Cookie": "a=b", "Content-Type": "application/json", "X-Y": "z"}
        assert ask(port, "/v1/chat/completions?a=b", **headers) == (200, {"echo": SECRET})
    ((method, path, sent, body),) = guest.requests
    assert (method, path, body) == ("POST", "/v1/chat/completions?a=b", SECRET.encode())
    assert {name.lower() for name in sent} == {"host", "accept-encoding", "content-length", "content-type"}


def test_one_verification_serves_many_requests(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        for _ in range(5):
            assert ask(port)[0] == 200
    assert guest.attestations == 1


def test_a_logger_in_the_image_is_refused_by_event_and_recipe_line(guest: Guest) -> None:
    guest.items = samples.extends(4 << 30, samples.CMDLINE + " privml.log_prompts=1")
    with proxied(gate_for(guest)) as port:
        status, answer = ask(port)
    assert status == 403
    error = answer["error"]
    assert error["type"] == "attestation_refused"
    assert error["message"].startswith("refused: demo-cpu, against the build in out/demo-cpu: rtmr2")
    (refusal,) = error["refusals"]
    assert refusal["code"] == "rtmr2"
    assert "recipes/demo-cpu.yaml:9 kernel.package" in refusal["where"]
    assert "privml.log_prompts=1" in refusal["where"]
    assert guest.attestations == 1
    assert nothing_left(guest)


def test_a_simulation_is_refused_unless_the_policy_allows_it(guest: Guest) -> None:
    with proxied(gate_for(guest, check=check(Policy()))) as port:
        status, answer = ask(port)
    assert status == 403
    assert [refusal["code"] for refusal in answer["error"]["refusals"]] == ["simulated"]
    assert nothing_left(guest)


def test_malformed_evidence_is_refused(guest: Guest) -> None:
    guest.document = lambda _: b"{}"
    with proxied(gate_for(guest)) as port:
        status, answer = ask(port)
    assert (status, answer["error"]["type"]) == (403, "attestation_refused")
    assert nothing_left(guest)


def test_a_guest_that_is_not_ready_is_unavailable(guest: Guest) -> None:
    guest.ready = False
    with proxied(gate_for(guest)) as port:
        status, answer = ask(port)
    assert (status, answer["error"]["type"]) == (503, "attestation_unavailable")
    assert "is not ready" in answer["error"]["message"]
    assert nothing_left(guest)


def test_an_unreachable_upstream_is_reported(guest: Guest) -> None:
    gate = Gate(f"https://127.0.0.1:{guest_fake.unused_port()}", check(), timeout=2)
    with proxied(gate) as port:
        assert ask(port)[0] == 503


def test_a_failing_check_removes_the_old_verdict(guest: Guest) -> None:
    broken = False

    def breaks(*arguments: bytes) -> Judgement:
        if broken:
            raise RuntimeError("a bug")
        return check()(*arguments)  # type: ignore[no-any-return]

    gate = gate_for(guest, check=breaks)
    assert gate.decide().open
    broken = True
    with pytest.raises(RuntimeError):
        gate.decide(fresh=True)
    assert gate.last is None


def test_a_new_boot_with_the_same_image_is_verified_again(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        assert ask(port)[0] == 200
        guest.reboot()
        assert ask(port)[0] == 200
    assert guest.attestations == 2


def test_a_new_boot_with_another_image_gets_nothing(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        assert ask(port)[0] == 200
        guest.requests.clear()
        guest.reboot()
        guest.items = samples.extends(4 << 30, "evil")
        assert ask(port)[0] == 403
        assert ask(port)[0] == 403
    assert nothing_left(guest)


def test_a_switch_to_another_machine_after_the_verdict_gets_nothing(guest: Guest) -> None:
    """The host swaps the machine behind the address; the swapped one relays the honest guest's documents."""
    with proxied(gate_for(guest)) as port:
        assert ask(port)[0] == 200
        guest.requests.clear()
        guest.claimed_spki = guest.spki
        guest.reboot()
        status, answer = ask(port)
    assert status == 403
    assert [refusal["code"] for refusal in answer["error"]["refusals"]] == ["tls-key"]
    assert nothing_left(guest)


def test_an_old_verdict_is_renewed_before_anything_is_sent(guest: Guest) -> None:
    now = [0.0]
    gate = gate_for(guest, interval=60.0, max_age=60.0, clock=lambda: now[0])
    with proxied(gate) as port:
        assert ask(port)[0] == 200
        guest.requests.clear()
        guest.items = samples.extends(4 << 30, "evil")
        now[0] = 59.0
        assert gate.decide().open
        now[0] = 61.0
        assert ask(port)[0] == 403
    assert nothing_left(guest)


def test_the_upstream_is_verified_again_without_being_asked(guest: Guest) -> None:
    gate = gate_for(guest, interval=0.1)
    with proxied(gate):
        end = time.monotonic() + 5
        while guest.attestations < 3:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_the_timer_survives_a_failing_check(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def breaks(*arguments: bytes) -> Judgement:
        if broken:
            raise RuntimeError("a bug")
        return check()(*arguments)  # type: ignore[no-any-return]

    gate = gate_for(guest, check=breaks, interval=0.1)
    with proxied(gate):
        end = time.monotonic() + 5
        while "cannot be verified" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert gate.last is None
        broken = False
        while gate.last is None or not gate.last.open:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_an_unreachable_upstream_closes_an_open_gate(guest: Guest) -> None:
    now = [0.0]
    gate = gate_for(guest, interval=60.0, max_age=90.0, clock=lambda: now[0])
    assert gate.decide().open
    guest.ready = False
    now[0] = 61.0
    assert gate.decide(fresh=True).open
    now[0] = 91.0
    assert not gate.decide().open


def test_a_request_during_the_first_verification_is_unavailable(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy serves although the guest has not answered yet, and nobody queues behind the fetch."""
    monkeypatch.setattr(proxy, "START_TIMEOUT", 0.1)
    held, document = threading.Event(), guest.document

    def slow(nonce: bytes) -> bytes:
        held.wait(30)
        return document(nonce)

    guest.document = slow
    with proxied(gate_for(guest)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/x", b"x", JSON)
        response = connection.getresponse()
        assert (response.status, response.getheader("Retry-After")) == (503, "1")
        error = json.loads(response.read())["error"]
        assert error["type"] == "attestation_unavailable"
        assert error["message"].endswith("is being verified; ask again")
        connection.close()
        assert nothing_left(guest)
        held.set()
        end = time.monotonic() + 10
        while ask(port)[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert guest.attestations == 1


def test_the_proxy_takes_what_the_guest_takes() -> None:
    assert proxy.MAX_BODY == llama_requests.BODY_SIZE


def test_a_body_in_pieces_has_a_deadline_for_each(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer longer than the limit of one piece passes; one that stops does not."""
    with proxied(gate_for(guest)) as port:
        assert ask(port)[0] == 200
        monkeypatch.setattr(kept, "ANSWER_TIMEOUT", 0.12)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/stream", b"x", JSON)
        assert connection.getresponse().read().count(b"token") == 3
        guest.endless, guest.pause = True, 60.0
        connection.request("POST", "/v1/stream", b"x", JSON)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse().read()
        connection.close()
        guest.endless = False
        guest.wake.set()


def test_the_gate_is_asked_before_the_body_is_read(guest: Guest) -> None:
    guest.items = samples.extends(4 << 30, "evil")
    with proxied(gate_for(guest)) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(head(port, "/v1/x", 1000))
        assert raw.recv(65536).startswith(b"HTTP/1.1 403 ")
    assert nothing_left(guest)


def test_an_answer_streams_as_it_comes(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/stream", b"x", JSON)
        response = connection.getresponse()
        times = []
        while response.read1(100):
            times.append(time.monotonic())
        connection.close()
    assert response.getheader("Content-Type") == "text/event-stream"
    assert response.getheader("Set-Cookie") is None
    assert 1 < len(times) <= 3  # on a busy machine two of its pieces arrive together
    assert times[-1] - times[0] > 0.05


def test_a_client_that_leaves_ends_the_work_upstream(guest: Guest) -> None:
    guest.endless = True
    with proxied(gate_for(guest)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/stream", b"x", JSON)
        assert connection.getresponse().read1(100)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        assert guest.broken.wait(5)


def test_many_slow_answers_do_not_keep_others_waiting(guest: Guest) -> None:
    """More open answers than anyio has threads by default, and the gate can still be asked."""
    guest.endless, guest.pause = True, 60.0
    gate = gate_for(guest)
    with proxied(gate) as port, contextlib.ExitStack() as stack:
        for _ in range(45):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            raw.sendall(head(port, "/v1/stream", 0))
            assert raw.recv(12) == b"HTTP/1.1 200"
        assert ask(port)[0] == 200
        guest.endless = False
        guest.wake.set()


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/whole"])
def test_a_truncated_answer_is_not_passed_on_as_complete(
    guest: Guest, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with proxied(gate_for(guest)) as port:
        guest_ready = ask(port)
        assert guest_ready[0] == 200
        guest.cut = True
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", path, b"x", JSON)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse().read()
        connection.close()
    assert "stopped in the middle of a response" in caplog.text


def test_an_answer_without_a_length_is_not_passed_on(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        guest.lengthless = True
        assert ask(port)[0] == 502


def test_a_body_that_is_too_large_is_not_passed_on(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_BODY", 1000)
    with proxied(gate_for(guest)) as port:
        status, answer = ask(port, body=b"x" * 1001)
        assert (status, answer["error"]["type"]) == (413, "request_too_large")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/x", iter([b"x" * 600, b"x" * 600]), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked", **JSON})  # fmt: skip
        assert connection.getresponse().status == 413
        connection.close()
    assert nothing_left(guest)


def test_a_declared_size_is_refused_before_it_is_sent(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(head(port, "/v1/x", 17000000))
        assert raw.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert nothing_left(guest)


def test_too_long_a_head_is_refused(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models", headers={"X": "y" * 60_000})
            assert connection.getresponse().status in (400, 431)
    assert nothing_left(guest)


@pytest.mark.parametrize(
    "path", ["/v1/../.well-known/privml-attestation", "/v1/%C3%A4/../x", "/v1/..", "/v1/%2e%2E/x", "/other", "/"]
)
def test_other_paths_do_not_pass(guest: Guest, path: str) -> None:
    with proxied(gate_for(guest)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", path, b"x", JSON)
        assert connection.getresponse().status in (400, 404, 405)
        connection.close()
    assert nothing_left(guest)


def test_health_reports_the_verdict(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        ask(port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/healthz")
        value = json.loads(connection.getresponse().read())
        connection.close()
    assert value["open"] is True
    assert value["verdict"]["outcome"] == "accepted-simulated"


def test_logs_hold_no_prompt(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with proxied(gate_for(guest)) as port:
        ask(port)
        guest.reboot()
        guest.items = samples.extends(4 << 30, "evil")
        ask(port)
    assert "accepted-simulated: demo-cpu" in caplog.text
    assert "refused: demo-cpu" in caplog.text
    assert SECRET not in caplog.text


def test_it_listens_on_this_machine_only(guest: Guest) -> None:
    with pytest.raises(UsageError, match="only on this machine"):
        proxy.server(("0.0.0.0", 0), Guests.at([guest.url], check()))


def test_the_port_is_printed_when_it_listens(guest: Guest) -> None:
    def listening(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            said.append(port)
        server.should_exit = True

    said: list[int] = []
    server = proxy.server(("127.0.0.1", 0), Guests.at([guest.url], check()), listening=listening)
    server.run()
    assert len(said) == 1
    assert said[0] > 0


def test_a_port_in_use_is_named_before_a_guest_is_asked(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(HostError) as failed:
                proxy.serve((host, port), Guests.at([guest.url], check()))
            assert failed.value.message == f"cannot listen on {host}:{port}: Address already in use"
            assert failed.value.exit_code == 5
    assert guest.attestations == 0
    assert capfd.readouterr() == ("", ""), "nothing of the HTTP library's own"


def test_an_unmodified_openai_client(guest: Guest) -> None:
    """The library that people use sees our refusal as an ordinary error of permission."""
    openai = pytest.importorskip("openai")
    guest.items = [*samples.extends(4 << 30), (RTMR2, types.EV_IPL, b"x", b"x", "")]
    with proxied(gate_for(guest)) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.PermissionDeniedError, match="rtmr2"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": SECRET}])
    assert nothing_left(guest)
