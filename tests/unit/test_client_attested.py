"""The client against a real TLS server: who is asked, what comes back, and that a wrong key gets no byte."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import attestation_samples as samples
import guest_fake
import pytest
from guest_fake import Guest

from privml.base.errors import EvidenceError, HostError, UsageError
from privml.client import attested, connection
from privml.client.connection import (
    MAX_HEAD,
    Deadline,
    Endpoint,
    GuestConnection,
    endpoint,
    reason,
)
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        yield running


def test_an_honest_guest_is_attested_over_its_connection(guest: Guest) -> None:
    found = attested.attest(guest.url, samples.EXPECTED, samples.SIMULATED, now=samples.NOW)
    assert found.judgement.verdict.outcome is Outcome.ACCEPTED_SIMULATED
    assert found.tls_spki_sha256 == guest.spki
    again = attested.judge(
        found.document,
        samples.EXPECTED,
        samples.SIMULATED,
        now=samples.NOW,
        nonce=found.nonce,
        tls_spki_sha256=found.tls_spki_sha256,
    )
    assert again == found.judgement


def test_the_nonce_is_fresh_each_time(guest: Guest) -> None:
    nonces = {attested.attest(guest.url, samples.EXPECTED, Policy(), now=samples.NOW).nonce for _ in range(3)}
    assert len(nonces) == 3


def test_a_relayed_document_names_the_key(guest: Guest) -> None:
    """A machine in the middle that passes on an honest document cannot have its key."""
    guest.claimed_spki = hashlib.sha256(b"the honest guest behind").digest()
    found = attested.attest(guest.url, samples.EXPECTED, samples.SIMULATED, now=samples.NOW)
    assert [refusal.code for refusal in found.judgement.verdict.refusals] == ["tls-key"]


def test_a_replayed_document_names_the_nonce(guest: Guest) -> None:
    guest.document = lambda _: samples.document(nonce=b"\1" * 32, spki=guest.spki).encode()
    found = attested.attest(guest.url, samples.EXPECTED, samples.SIMULATED, now=samples.NOW)
    assert [refusal.code for refusal in found.judgement.verdict.refusals] == ["nonce"]


def test_a_guest_that_is_not_ready_reports_its_stages(guest: Guest) -> None:
    guest.ready = False
    with pytest.raises(HostError) as caught:
        attested.fetch(guest.url, bytes(32), 10)
    assert caught.value.message.splitlines() == [
        rf"{guest.url} is not ready: not\x07 yet",
        "  config: ok",
        r"  model: failed: bad\x1b[31m hash",
    ]


def test_answers_that_are_not_documents_are_refused(guest: Guest) -> None:
    guest.document = lambda _: b"hello"
    with pytest.raises(EvidenceError):
        attested.attest(guest.url, samples.EXPECTED, Policy(), now=samples.NOW)


def test_a_status_line_writes_no_line_of_the_error(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(_: object) -> None:
        raise http.client.BadStatusLine("\x1b[2J\nACCEPTED: demo-cpu")

    monkeypatch.setattr(GuestConnection, "getresponse", bad)
    with pytest.raises(HostError) as caught:
        attested.fetch(guest.url, bytes(32))
    assert caught.value.message.isprintable()


def test_an_answer_that_never_ends_is_cut(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attested.document, "MAX_DOCUMENT", 1000)
    with pytest.raises(EvidenceError, match="larger than 1000 bytes"):
        attested.fetch(guest.url, bytes(32), 10)


def test_an_unreachable_attestor_is_a_host_error() -> None:
    url = f"https://127.0.0.1:{guest_fake.unused_port()}"
    with pytest.raises(HostError) as caught:
        attested.fetch(url, bytes(32), 2)
    assert caught.value.message == f"{url}: no attestation document: connection refused"


def test_half_a_document_is_not_one(guest: Guest) -> None:
    guest.cut = True
    with pytest.raises(HostError, match="closed before the end of the response"):
        attested.fetch(guest.url, bytes(32), 5)


def test_a_silent_machine_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HostError, match=r"timed out after 0\.3 s"):
            attested.fetch(url, bytes(32), 0.3)


PAUSE = 0.02
STEPS = 400  # 8 s of pauses, after which the response is complete and good
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def slow(data: bytes) -> Iterator[bytes]:
    """``data`` byte by byte."""
    return (data[at : at + 1] for at in range(len(data)))


def whole(document: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(document), document)


STRETCHED: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "one slow 100 Continue": lambda document: itertools.chain(
        slow(b"HTTP/1.1 100 Continue\r\nX: " + b"x" * STEPS + b"\r\n\r\n"), [whole(document)]
    ),
    "a slow head": lambda document: itertools.chain(
        slow(b"HTTP/1.1 200 OK\r\nX: " + b"x" * STEPS + b"\r\n"), [whole(document).partition(b"\r\n")[2]]
    ),
    "slow chunk lines": lambda document: itertools.chain(
        [CHUNKED, b"%x;" % len(document)], slow(b"x" * STEPS), [b"\r\n", document, b"\r\n0\r\n\r\n"]
    ),
    "endless trailers": lambda document: itertools.chain(
        [CHUNKED, b"%x\r\n%s\r\n0\r\n" % (len(document), document)],
        itertools.repeat(b"X: x\r\n", STEPS),
        [b"\r\n"],
    ),
    "a slow body": lambda document: itertools.chain(
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document)],
        slow(document[:STEPS]),
        [document[STEPS:]],
    ),
}


@contextlib.contextmanager
def stretching(pieces: Callable[[bytes], Iterator[bytes]], pause: float = PAUSE) -> Iterator[str]:
    """A TLS server that answers each connection with ``pieces`` of a good document; its address."""
    guest = Guest()
    ended = threading.Event()

    def answer(raw: socket.socket) -> None:
        with contextlib.suppress(OSError), guest.context.wrap_socket(raw, server_side=True) as tls:
            request = tls.recv(65536)
            nonce = request.partition(b"nonce=")[2][:64] or b"00" * 32
            for piece in pieces(guest.document(bytes.fromhex(nonce.decode()))):
                tls.sendall(piece)
                if pause and ended.wait(pause):
                    return

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                answer(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize("kind", STRETCHED)
def test_no_server_stretches_the_deadline(kind: str) -> None:
    """Each sends something every 20 ms, so no single read is late; a fetch without a deadline succeeds."""
    with stretching(STRETCHED[kind]) as url, pytest.raises(HostError, match=r"timed out after 0\.5 s"):
        attested.fetch(url, bytes(32), 0.5)


@pytest.mark.parametrize("kind", STRETCHED)
def test_a_read_that_never_returns_is_cut_at_the_deadline(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a flood of TLS records without data: no timeout of a read ends it."""
    monkeypatch.setattr(connection._TimedSocket, "_limit", lambda self: self.settimeout(60))
    with stretching(STRETCHED[kind]) as url, pytest.raises(HostError, match=r"timed out after 0\.5 s"):
        attested.fetch(url, bytes(32), 0.5)


@pytest.mark.parametrize("kind", STRETCHED)
def test_the_same_answers_without_pauses_are_read(kind: str) -> None:
    with stretching(STRETCHED[kind], pause=0) as url:
        assert attested.fetch(url, bytes(32), 10).document.startswith(b"{")


def test_endless_interim_responses_are_cut_at_once() -> None:
    with (
        stretching(lambda _: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), pause=0) as url,
        pytest.raises(HostError, match="more than 8 interim responses"),
    ):
        attested.fetch(url, bytes(32), 60)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n"])
def test_an_endless_head_is_cut_at_once(head: bytes) -> None:
    with (
        stretching(lambda _: itertools.chain([head], itertools.repeat(b"X: %s\r\n" % (b"x" * 900))), pause=0) as url,
        pytest.raises(HostError, match=f"larger than {MAX_HEAD} bytes"),
    ):
        attested.fetch(url, bytes(32), 60)


def test_the_stages_get_only_what_is_left_of_the_time() -> None:
    """A guest that is not ready, and whose stages never come: the fetch still ends at its deadline."""
    not_ready = b"HTTP/1.1 503 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    answers = iter([[not_ready], itertools.repeat(b" ", STEPS)])
    with stretching(lambda _: iter(next(answers))) as url, pytest.raises(HostError, match="is not ready") as caught:
        attested.fetch(url, bytes(32), 0.5)
    assert "\n" not in caught.value.message


def test_a_deadline_can_only_be_renewed() -> None:
    now = [10.0]
    deadline = Deadline(5, clock=lambda: now[0])
    now[0] = 14.0
    assert deadline.left() == 1.0
    now[0] = 15.0
    with pytest.raises(TimeoutError, match="not complete within 5 s"):
        deadline.left()
    deadline.renew(2)
    assert deadline.left() == 2.0


def test_the_next_address_is_tried_in_the_time_left(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address answers nothing: it gets its part of the time, not all of it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, contextlib.ExitStack() as stack:
        for _ in range(4):  # until the backlog is full, and further connections are not answered
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        first, second = (
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (silent.getsockname(), ("127.0.0.1", guest.port))
        )
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [first, second])
        assert attested.fetch(guest.url, bytes(32), 2).tls_spki_sha256 == guest.spki


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (http.client.RemoteDisconnected("Remote end closed"), "remote end closed"),
        (http.client.IncompleteRead(b"", 5), "the connection was closed before the end of the response"),
        (TimeoutError("The read operation timed out"), "timed out"),
        (http.client.BadStatusLine(""), "''"),
        (OSError(), "OSError"),
    ],
)
def test_reasons_have_no_numbers(error: Exception, words: str) -> None:
    assert reason(error).lower() == words.lower()


def test_a_machine_without_tls_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hello() -> None:
            raw, _ = listener.accept()
            with raw, contextlib.suppress(OSError):
                raw.recv(65536)
                raw.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=hello)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HostError, match="no attestation document: TLS: wrong version number"):
            attested.fetch(url, bytes(32), 5)
        thread.join()


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://127.0.0.1:8443", Endpoint("127.0.0.1", 8443)),
        ("https://example.test/", Endpoint("example.test", 8443)),
        ("https://[::1]:9", Endpoint("::1", 9)),
    ],
)
def test_addresses_are_parsed(url: str, where: Endpoint) -> None:
    assert endpoint(url) == where
    assert endpoint(where.url) == where


@pytest.mark.parametrize(
    "url",
    ["http://h", "h:8443", "https://", "https://h/v1", "https://h?x=1", "https://u@h", "https://h:x", "https://[::"],
)
def test_malformed_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        endpoint(url)


@pytest.mark.parametrize(
    ("url", "hint"),
    [("h:8443", "try https://h:8443"), ("http://h", "by HTTPS only"), ("https://h/v1", "what follows the port")],
)
def test_the_hint_for_an_address_is_about_what_is_wrong_with_it(url: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint(url)
    assert hint in (caught.value.hint or "")
