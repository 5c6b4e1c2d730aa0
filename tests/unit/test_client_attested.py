"""The client against a real TLS server: who is asked, what comes back, and that a wrong key gets no byte."""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator

import attestation_samples as samples
import guest_fake
import pytest
from guest_fake import Guest

from privml.base.errors import EvidenceError, HostError, Refused, UsageError
from privml.client import attested
from privml.client.connection import AttestedConnection, Endpoint, GuestConnection, endpoint
from privml.verify.judgement import AttestedKeys
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
    guest.document = lambda _: samples.document(nonce=bytes(32), spki=guest.spki).encode()
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
    with pytest.raises(HostError, match="no attestation document"):
        attested.fetch(f"https://127.0.0.1:{guest_fake.unused_port()}", bytes(32), 2)


def test_a_silent_machine_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(HostError, match="timed out"):
            attested.fetch(url, bytes(32), 0.3)
        assert time.monotonic() - start < 3


def attested_keys(spki: bytes) -> AttestedKeys:
    """The keys that a judgement proves of a guest with this TLS key."""
    keys = samples.judge(samples.document(spki=spki), tls_spki_sha256=spki).keys
    assert keys is not None
    return keys


def test_an_attested_connection_carries_requests(guest: Guest) -> None:
    connection = AttestedConnection(endpoint(guest.url), attested_keys(guest.spki), timeout=5)
    connection.request("POST", "/v1/chat", body=b"prompt")
    assert connection.getresponse().read() == b'{"echo": "prompt"}'
    connection.abort()


def test_another_key_gets_no_byte(guest: Guest) -> None:
    connection = AttestedConnection(endpoint(guest.url), attested_keys(bytes(32)), timeout=5)
    with pytest.raises(Refused, match="tls-key"):
        connection.request("POST", "/v1/chat", body=b"prompt")
    assert connection.sock is None
    assert guest.requests == []


def test_a_reconnect_is_checked_too(guest: Guest) -> None:
    """`http.client` opens a closed connection again by itself; the key is compared again."""
    connection = AttestedConnection(endpoint(guest.url), attested_keys(guest.spki), timeout=5)
    connection.request("POST", "/v1/chat", body=b"one")
    connection.getresponse().read()
    connection.close()
    guest.reboot()
    with pytest.raises(Refused):
        connection.request("POST", "/v1/chat", body=b"two")
    assert [body for *_, body in guest.requests] == [b"one"]


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
