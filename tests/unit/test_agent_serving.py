"""The agent as callers see it: attestor and server processes, TLS, and a boot through all stages."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import threading
import time
from collections.abc import Iterator

import pytest
from agent_guest import MRTD, NO_MODEL, Guest, a_config, guest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.agent import wire
from privml.agent.attestorclient import AttestorClient
from privml.agent.wire import RefusedRequest
from privml.base.errors import HostError
from privml.events import configuration
from privml.events.agent import AgentEvent, parse_log, replay
from privml.events.stages import sequence
from privml.evidence import document, merkle, report_data, sections
from privml.evidence.quotefault import FAULTS, QuoteFault
from privml.evidence.sections import TLS_KEY, Key, Keys
from privml.evidence.tdx import quote

NONCE = "5a" * 32
ATTESTATION = "/.well-known/privml-attestation"


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    """A guest that has passed every stage."""
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        yield made


def test_document_of_a_ready_guest_binds_key_log_and_nonce(served: Guest) -> None:
    status, headers, body = served.request("GET", f"{ATTESTATION}?nonce={NONCE}")
    assert (status, headers["cache-control"]) == (200, "no-store")
    found = document.parse(body)
    assert found.nonce.hex() == NONCE
    assert sections.Header.decode(found.header) == sections.Header("development", "tdx", "serve", "ready")
    events = parse_log(found.eventlog)
    assert [event.name for event in events] == ["config", "model", "engine", "system-ready"]
    digest = hashlib.sha256(served.layout.config.read_bytes()).hexdigest()
    assert json.loads(events[0].payload) == {"sha256": digest}
    assert json.loads(events[1].payload) == {"name": "tiny", "root_hash": "aa" * 32}
    parsed = quote.parse(found.evidence)
    expected = report_data.compute(
        header=found.header,
        root=merkle.root(found.nonce, found.path),
        keys=found.keys,
        devices=found.devices,
        eventlog=found.eventlog,
    )
    assert parsed.body.report_data == expected
    assert parsed.body.mr_td == MRTD
    assert parsed.body.rtmrs[3] == replay(parse_log(found.eventlog))
    with served.connect() as tls:
        assert tls.version() == "TLSv1.3"
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert sections.Keys.decode(found.keys).find(*TLS_KEY) == hashlib.sha256(spki).digest()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?nonce=",
        "?nonce=" + "5a" * 31,
        "?nonce=" + "5A" * 32,
        f"?nonce={NONCE}&nonce={NONCE}",
        f"?nonce={NONCE}&more=1",
    ],
)
def test_attestation_requires_exactly_one_nonce(served: Guest, query: str) -> None:
    status, answer = served.json(ATTESTATION + query)
    assert (status, answer["error"]["code"]) == (400, "nonce")  # type: ignore[index]


def test_many_callers_at_once_each_get_their_own_nonce(served: Guest) -> None:
    nonces = [bytes([n]) * 32 for n in range(24)]
    found: dict[bytes, document.Document] = {}

    def ask(nonce: bytes) -> None:
        found[nonce] = document.parse(served.request("GET", f"{ATTESTATION}?nonce={nonce.hex()}")[2])

    threads = [threading.Thread(target=ask, args=(nonce,)) for nonce in nonces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for nonce in nonces:
        one = found[nonce]
        assert one.nonce == nonce
        expected = report_data.compute(
            header=one.header,
            root=merkle.root(nonce, one.path),
            keys=one.keys,
            devices=one.devices,
            eventlog=one.eventlog,
        )
        assert quote.parse(one.evidence).body.report_data == expected


def test_ready_guest_shows_its_stages(served: Guest) -> None:
    assert served.json("/healthz") == (200, {"alive": True})
    assert served.json("/readyz") == (200, {"ready": True})
    status, table = served.json("/boot-stages")
    assert (status, table["ready"]) == (200, True)
    statuses = {stage["name"]: stage["status"] for stage in table["stages"]}  # type: ignore[index, attr-defined]
    assert {name for name, status in statuses.items() if status != "ok"} == {"gpu", "services", "keys"}


@pytest.fixture(scope="module")
def attesting() -> Iterator[Guest]:
    """A guest without a model that has passed every stage; starting an engine would fail the test."""
    with guest(a_config(**NO_MODEL)) as made:
        made.start_server()
        made.engine.living = False
        assert made.boot().run(), made.said
        yield made


def test_a_guest_without_a_model_attests(attesting: Guest) -> None:
    found = document.parse(attesting.request("GET", f"{ATTESTATION}?nonce={NONCE}")[2])
    events = parse_log(found.eventlog)
    assert [event.name for event in events] == ["config", "system-ready"]
    assert json.loads(events[0].payload) == {
        "sha256": hashlib.sha256(attesting.layout.config.read_bytes()).hexdigest()
    }
    assert quote.parse(found.evidence).body.rtmrs[3] == replay(parse_log(found.eventlog))
    assert attesting.json("/readyz") == (200, {"ready": True})


def test_a_guest_without_a_model_shows_what_it_skipped(attesting: Guest) -> None:
    _, table = attesting.json("/boot-stages")
    statuses = {stage["name"]: stage["status"] for stage in table["stages"]}  # type: ignore[index, attr-defined]
    assert {name for name, status in statuses.items() if status == "skipped"} == {
        "gpu",
        "services",
        "keys",
        "model",
        "engine",
    }
    assert set(statuses.values()) == {"ok", "skipped"}
    assert (attesting.commands, attesting.engine.started) == ([], False)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/other")],
)
def test_a_guest_without_a_model_has_no_inference_routes(attesting: Guest, method: str, path: str) -> None:
    status, headers, body = attesting.request(method, path, b'{"prompt":"x"}' if method == "POST" else None)
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body)["error"]["code"] == "no-inference"


def test_a_guest_without_a_model_still_watches_its_attestor() -> None:
    with guest(a_config(**NO_MODEL)) as made:
        made.engine.living = False
        boot = made.boot()
        assert boot.run(), made.said
        made.attestor.kill()
        made.attestor.wait()
        boot.watch(interval=0.01)
        assert made.said[-1].startswith(
            "privml: stage platform failed: the attestor exited, and no other one listens"
        )


def test_stage_socket_is_gone_after_ready(served: Guest) -> None:
    assert not served.layout.stage_socket.exists()
    with pytest.raises(HostError):
        AttestorClient(served.layout).stage("ready")


def test_quote_socket_takes_only_quotes(served: Guest) -> None:
    for request in (
        {"op": "extend", "name": "failed", "payload": "e30="},
        {"op": "ready"},
        {"op": "quote"},
        {"op": "quote", "root": "00" * 31},
        {"op": "quote", "root": "00" * 32, "purpose": "key-release"},
        {"op": "release_quote", "root": "00" * 32},
        [],
    ):
        answer = wire.ask(served.layout.quote_socket, request, timeout=5)  # type: ignore[arg-type]
        assert answer["error"]["code"] == "malformed", request


def test_completion_goes_to_the_engine_and_back(served: Guest) -> None:
    body = b'{"prompt":"The capital of France is"}'
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer secret",
        "accept": "application/json",
        "x-conversation-id": "llama-server keeps an answer under this",
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
    }
    status, got, answer = served.request("POST", "/v1/completions", body, headers)
    assert (status, answer) == (200, b'{"choices":[{"text":" Paris."}]}')
    path, sent, forwarded = served.engine.requests[-1]
    assert path == "/v1/completions"
    assert json.loads(forwarded) == {**json.loads(body), "cache_prompt": False}
    assert sent["content-type"] == sent["accept"] == "application/json"
    assert set(sent) == {"host", "connection", "content-type", "accept", "content-length"}
    assert not {"x-internal", "keep-alive", "server"} & set(got)


def test_stream_arrives_piece_by_piece(served: Guest) -> None:
    served.engine.hold.clear()
    connection = http.client.HTTPSConnection("127.0.0.1", served.config.listen, timeout=5)
    connection.sock = served.connect()
    try:
        connection.request("POST", "/v1/chat/completions", b'{"stream":true}')
        response = connection.getresponse()
        assert response.getheader("content-type") == "text/event-stream"
        assert response.read1() == b"data: one\n\n"  # the engine has not made the second one yet
        served.engine.hold.set()
        assert response.read() == b"data: two\n\n"
    finally:
        served.engine.hold.set()
        connection.close()


def test_concurrent_requests_are_limited_by_the_configuration(served: Guest) -> None:
    served.engine.hold.clear()
    before = len(served.engine.requests)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(served.request("POST", "/v1/chat/completions", b"{}")[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    served.wait_for(lambda: len(served.engine.requests) == before + 2, "two requests under way")
    status, _, body = served.request("POST", "/v1/chat/completions", b"{}")
    assert (status, json.loads(body)["error"]["code"]) == (429, "busy")
    assert served.json("/readyz")[0] == 200
    served.engine.hold.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 16777217\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        (b"GET /v1 HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", 413),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 60000 + b"\r\n\r\n", 431),
    ],
)
def test_malformed_and_oversized_requests_are_refused(served: Guest, data: bytes, status: int) -> None:
    answer = served.raw(data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert served.json("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/v1/models", "GET"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", f"/v1/receipts/{'00' * 16}", "GET, HEAD"),
        ("PUT", "/.well-known/ohttp-gateway", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(served: Guest, method: str, path: str, allowed: str) -> None:
    status, headers, body = served.request(method, path)
    assert (status, json.loads(body)["error"]["code"], headers["allow"]) == (405, "method", allowed)


def test_body_that_grows_past_the_limit_is_refused(served: Guest) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(17):
            yield bytes(1024 * 1024)

    before = len(served.engine.requests)
    try:
        status, _, _ = served.request("POST", "/v1/completions", body())  # type: ignore[arg-type]
        assert status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server stopped reading before the client stopped writing
    assert len(served.engine.requests) == before


def test_connection_serves_several_requests(served: Guest) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", served.config.listen, timeout=5)
    connection.sock = served.connect()
    try:
        for _ in range(3):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"alive":true}\n'
            connection.request("HEAD", "/healthz")  # its answer has no body, and does not end the connection
            response = connection.getresponse()
            assert (response.getheader("content-length"), response.read()) == ("15", b"")
    finally:
        connection.close()


def test_requests_of_any_form_follow_each_other_on_one_connection(served: Guest) -> None:
    usual = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n" + b'{"prompt":"a"}'
    chunked = (
        b"POST /v1/completions HTTP/1.1\r\nhost:a\r\ntransfer-encoding: chunked\r\n\r\ne\r\n"
        + usual[-14:]
        + b"\r\n0\r\n\r\n"
    )
    last = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    alive = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    before = len(served.engine.requests)
    answers = served.raw(usual + chunked + alive + usual + alive + last)
    assert answers.count(b"HTTP/1.1 200 ") == 6
    assert answers.count(b"Paris") == 3 and answers.endswith(b'{"alive":true}\n')
    assert [json.loads(body)["prompt"] for *_, body in served.engine.requests[before:]] == ["a"] * 3


def test_a_body_with_a_length_and_in_chunks_is_refused_and_nothing_follows_it(served: Guest) -> None:
    body = b"e\r\n" + b'{"prompt":"a"}' + b"\r\n0\r\n\r\n"
    alive = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    before = len(served.engine.requests)
    for length in (4, len(body)):
        fields = [b"content-length: %d\r\n" % length, b"Transfer-Encoding: chunked\r\n"]
        for first, second in (fields, fields[::-1]):
            got = served.raw(
                b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n" + first + second + b"\r\n" + body + alive
            )
            assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
            assert b"connection: close" in got.lower() and b'"code":"malformed"' in got
    assert len(served.engine.requests) == before


def test_after_a_head_what_is_no_request_is_refused_with_a_body(served: Guest) -> None:
    got = served.raw(b"HEAD /healthz HTTP/1.1\r\nhost: a\r\n\r\nBAD\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.count(b"HTTP/1.1 400 ") == 1 and b'"code":"malformed"' in got


def test_a_head_and_body_in_any_pieces_are_one_request(served: Guest) -> None:
    data = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n" + b'{"prompt":"b"}'
    for cuts in ((5,), (len(data) - 14,), (len(data) - 3,), (20, 40, len(data) - 1)):
        with served.connect() as tls:
            for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                tls.sendall(data[start:end])
                time.sleep(0.02)
            assert tls.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_whole_answer_is_one_record(served: Guest) -> None:
    with served.connect() as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert tls.recv(65536).endswith(b'\r\n\r\n{"alive":true}\n')
        tls.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n" + b'{"prompt":"c"}')
        assert tls.recv(65536).endswith(b'{"choices":[{"text":" Paris."}]}')


def test_the_server_keeps_to_one_processor(served: Guest) -> None:
    assert len(os.sched_getaffinity(served.server.pid)) == 1


def test_old_tls_and_plain_text_are_not_answered(served: Guest) -> None:
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.config.listen), timeout=5) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)
    with socket.create_connection(("127.0.0.1", served.config.listen), timeout=5) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):  # the shortest refusal
            assert b"200" not in raw.recv(1000)


def test_tls_key_is_for_the_server_only(served: Guest) -> None:
    assert served.layout.tls_key.stat().st_mode & 0o777 == 0o400
    assert served.layout.quote_socket.stat().st_mode & 0o777 == 0o660


def test_requests_are_refused_before_ready_and_after_the_engine_exits() -> None:
    with guest() as made:
        made.start_server()
        boot = made.boot()
        made.engine.completion_status = 500
        assert not boot.run()
        assert any("stage engine failed" in line and "status 500" in line for line in made.said), made.said
        status, _, body = made.request("POST", "/v1/completions", b'{"prompt":"secret"}')
        answer = json.loads(body)
        assert (status, answer["error"]["code"], answer["stages"]["ready"]) == (503, "not-ready", False)
        assert made.json("/readyz") == (503, {"ready": False})
        assert made.json(f"{ATTESTATION}?nonce={NONCE}")[1]["error"]["code"] == "failed"  # type: ignore[index]
        assert [path for path, _, _ in made.engine.requests] == ["/v1/completions"]  # the boot's own


def test_engine_that_ends_after_ready_ends_quotes_and_answers() -> None:
    with guest() as made:
        made.start_server()
        boot = made.boot()
        assert boot.run(), made.said
        assert made.json(f"{ATTESTATION}?nonce={NONCE}")[0] == 200
        made.engine.living = False
        boot.watch(interval=0.01)
        assert "privml: stage engine failed: the engine exited, after 0 restarts within an hour" in made.said
        made.wait_for(lambda: made.json(f"{ATTESTATION}?nonce={NONCE}")[0] == 503, "end of quotes")
        assert made.request("POST", "/v1/completions", b"{}")[0] == 503


def test_attestor_that_ends_is_a_failure() -> None:
    with guest() as made:
        boot = made.boot()
        assert boot.run(), made.said
        made.attestor.kill()
        boot.watch(interval=0.01)
        assert made.said[-1].startswith(
            "privml: stage platform failed: the attestor exited, and no other one listens"
        )
        assert not boot.progress.ready


def test_device_that_is_plugged_in_later_is_a_failure() -> None:
    with guest() as made:
        boot = made.boot()
        assert boot.run(), made.said
        made.add_pci(9, 0x1AF4, 0x1044)
        boot.watch(interval=0.01)
        assert made.said[-1] == "privml: stage devices failed: devices: 1 x virtio-rng not declared"
        assert not boot.progress.ready


def test_a_machine_without_a_tee_answers_but_cannot_attest() -> None:
    with guest(tee="none") as made:
        made.start_server()
        assert made.boot().run(), made.said
        assert made.request("POST", "/v1/completions", b"{}")[0] == 200
        status, answer = made.json(f"{ATTESTATION}?nonce={NONCE}")
        assert (status, answer["error"]["code"]) == (503, "no-tee")  # type: ignore[index]
        assert platform_row(made) == (
            "warning",
            "no TEE: this machine cannot be attested; qemu: the kernel has no provider of quotes; was this guest "
            "started as a TD?",
        )


def platform_row(made: Guest) -> tuple[str, str]:
    """Status and detail of the stage in which the attestor starts, as callers see them."""
    row = made.json("/boot-stages")[1]["stages"][0]  # type: ignore[index]
    assert row["name"] == "platform"
    return row["status"], row["detail"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_while_quotes_fail_the_stages_name_the_rung(attesting: Guest, fault: QuoteFault) -> None:
    (attesting.root / "fault").write_text(fault.code)
    status, answer = attesting.json(f"{ATTESTATION}?nonce={NONCE}")
    assert (status, answer["error"]["code"]) == (503, fault.code)  # type: ignore[index]
    assert fault.text in answer["error"]["message"]  # type: ignore[index]
    assert platform_row(attesting) == ("warning", f"simulated; no quote: {fault}")
    assert attesting.json("/readyz") == (200, {"ready": True})
    (attesting.root / "fault").unlink()
    assert attesting.request("GET", f"{ATTESTATION}?nonce={NONCE}")[0] == 200
    assert platform_row(attesting) == ("ok", "simulated")


def test_the_console_shows_a_fault_once_until_a_quote_succeeds() -> None:
    with guest(a_config(**NO_MODEL)) as made:
        assert made.boot().run(), made.said
        client, fault = AttestorClient(made.layout), made.root / "fault"
        for code in ("quote-busy", "quote-busy", "", "quote-busy", "quote-refused"):
            if not code:
                fault.unlink()
                client.quote(bytes(32), timeout=5)
                continue
            fault.write_text(code)
            refused(lambda: client.quote(bytes(32), timeout=5), code)
        made.attestor.terminate()
        made.attestor.wait()
        assert made.attestor.stderr is not None
        said = made.attestor.stderr.read().decode().splitlines()
    shown = [FAULTS[code] for code in ("quote-busy", "quote-busy", "quote-refused")]
    assert said == [f"privml: attestor: no quote: {fault}" for fault in shown]


def test_attestor_process_keeps_the_order() -> None:
    with guest() as made:
        client = AttestorClient(made.layout)
        made.wait_for(made.layout.stage_socket.exists, "stage socket")
        time.sleep(0.05)
        events = sequence(configuration.read(made.layout.config))

        def quote_refused() -> None:
            refused(lambda: client.quote(bytes(32), timeout=5), "not-ready")
            refused(lambda: client.release_quote(bytes(32)), "not-ready")

        refused(lambda: client.extend(events[0]), "order")  # its stage has not begun
        client.stage("config")
        refused(lambda: client.stage("identity"), "order")
        refused(lambda: client.extend(events[1]), "order")
        quote_refused()
        client.extend(events[0])
        refused(lambda: client.extend(events[0]), "order")
        client.stage("identity")
        keys = Keys((Key(*TLS_KEY, b"k" * 32),)).encode()
        client.keys(keys)
        refused(lambda: client.keys(keys), "order")
        refused(lambda: client.stage("model"), "order")
        client.stage("devices")
        client.stage("gpu")
        client.stage("services")
        client.stage("keys")
        quote_refused()  # no model is encrypted
        client.stage("model")
        refused(lambda: client.extend(AgentEvent("model", b"{}")), "payload")
        client.extend(events[1])
        client.stage("engine")
        client.extend(events[2])
        refused(lambda: client.extend(events[3]), "order")
        client.stage("ready")
        quote_refused()
        client.extend(events[3])
        parts = client.quote(bytes(32), timeout=5)
        assert parts["keys"] == keys


def refused(call: object, code: str) -> None:
    with pytest.raises(RefusedRequest) as caught:
        call()  # type: ignore[operator]
    assert caught.value.code == code
