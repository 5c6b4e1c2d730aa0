"""Guests behind somebody else's TLS terminator: found, judged on their channel keys, and sent sealed requests."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
import terminator_fake
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from html_page import Page
from sealed_guest import X25519, SealedGuest
from terminator_fake import PROBLEM, Front
from test_cli_main import Outcome, as_found, captured, image, place  # noqa: F401 - fixtures
from tests.unit.proxy_thread import proxied
from tests.unit.terminator_certificate import certificate

from privml.base.errors import HostError, PrivmlError, Refused, UsageError
from privml.channel.bhttp import Request
from privml.channel.keyring import KeyRing
from privml.channel.ohttp import GATEWAY
from privml.channel.token import Token, guest_of
from privml.client import attested, behind
from privml.client.behind import Behind, ChannelGate, guests_behind
from privml.client.gate import Decision
from privml.client.guests import Guests
from privml.client.sealing import NotOpened
from privml.client.terminator import Terminator
from privml.client.tokens import GuestTokens
from privml.client.ways import Answer, Asked, Judged
from privml.verify.judgement import Judgement

CANARY = b"canary-7f1c5a52d1a94cb09a7b2c46f0"
PROMPT = Asked("POST", "/v1/completions", ((b"content-type", b"application/json"),), b'{"prompt":"%s"}' % CANARY)
NOTE = Asked("POST", "/x/notes/1", (), b"a note")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with terminator_fake.running(Front(tmp_path, SealedGuest([X25519]))) as made:
        yield made


def terminator(front: Front) -> Terminator:
    return Terminator.at(front.url, front.authority)


def check(document: bytes, nonce: bytes, record: bytes) -> Judgement:
    return attested.judge(
        document, samples.EXPECTED, samples.SIMULATED, now=samples.NOW, nonce=nonce, tls_spki_sha256=None,
        channel_record=record,
    )  # fmt: skip


class Talk:
    """A gate and the way behind it."""

    def __init__(self, front: Front) -> None:
        self.now = 0.0
        self.gate = ChannelGate(terminator(front), check, clock=lambda: self.now)
        self.renewed = 0

    def ask(self, *asked: Asked, decision: Decision | None = None) -> list[tuple[Answer, bytes] | PrivmlError]:
        """Each request's answer with its whole body, or the error."""

        async def every() -> list[tuple[Answer, bytes] | PrivmlError]:
            way = behind.Front(self.gate)
            found: list[tuple[Answer, bytes] | PrivmlError] = []
            judged = Judged(self.gate.upstream, decision or self.gate.decide())
            for one in asked:
                try:
                    answer = await way.send(one, judged)
                    try:
                        found.append((answer, b"".join([piece async for piece in answer.pieces])))
                    finally:
                        answer.close()
                except PrivmlError as error:
                    found.append(error)
            way.close()
            return found

        return asyncio.run(every())


def sections(decision: Decision) -> set[bytes]:
    assert isinstance(decision, Behind)
    return {one.channel.keys.section_sha256 for one in decision.recipients}


def test_every_guest_behind_one_address_is_found_and_judged(front: Front) -> None:
    front.guests += [SealedGuest([X25519]) for _ in range(2)]
    decision = Talk(front).gate.decide()
    assert decision.open
    assert sections(decision) == {guest.keys.sha256 for guest in front.guests}


def test_a_request_goes_sealed_to_whoever_is_next_and_the_answer_names_the_guest(front: Front) -> None:
    front.guests.append(SealedGuest([X25519]))
    named = []
    for found in Talk(front).ask(PROMPT, PROMPT, PROMPT, PROMPT):
        assert not isinstance(found, PrivmlError)
        answer, body = found
        assert (answer.status, body) == (200, b"onetwo")
        assert answer.header(b"content-type") == b"text/event-stream"
        assert answer.trailers() == ((b"x-end", b"1"),)
        keys = answer.judged.decision.keys
        assert keys is not None
        named.append(keys.section_sha256)
    assert front.prompts() == [PROMPT.body] * 4
    assert named == [guest.keys.sha256 for guest, _ in front.opened]
    assert set(named) == {guest.keys.sha256 for guest in front.guests}
    assert {(method, path) for method, path, body in front.seen if body} == {("POST", GATEWAY)}
    assert not any(CANARY in body for _, _, body in front.seen)


def test_a_request_for_the_guest_that_answered_is_sealed_for_that_one_only(front: Front) -> None:
    front.guests.append(SealedGuest([X25519]))
    talk = Talk(front)
    decision = talk.gate.decide()
    assert isinstance(decision, Behind)
    for one in decision.recipients:
        ((answer, _),) = talk.ask(Asked("GET", "/v1/receipts/1"), decision=one.judged.decision)  # type: ignore[misc]
        assert answer.judged.decision is one.judged.decision
        assert front.opened[-1][0].keys.sha256 == one.channel.keys.section_sha256


def test_when_one_guest_goes_the_next_request_is_answered(front: Front) -> None:
    front.guests.append(SealedGuest([X25519]))
    talk = Talk(front)
    decision = talk.gate.decide()
    front.guests.pop()
    ((answer, _),) = talk.ask(PROMPT, decision=decision)  # type: ignore[misc]
    assert answer.judged.decision.keys.section_sha256 == front.guests[0].keys.sha256


def test_new_keys_of_the_same_boot_are_fetched_and_the_request_is_sent_again_once(front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    front.guests[0].rotate()
    asks = len(front.seen)
    ((_, body),) = talk.ask(PROMPT, decision=decision)  # type: ignore[misc]
    assert body == b"onetwo"
    assert not any("attestation" in path for _, path, _ in front.seen[asks:]), "the same judgement"
    assert [method for method, *_ in front.seen[asks:]].count("POST") == 2


def test_a_later_judgement_s_record_counts_although_its_number_is_lower(front: Front) -> None:
    """A server of a guest that is started again has the same attested key, and counts its records from 1."""
    way = behind.Front(ChannelGate(terminator(front), check))
    guest = front.guests[0]
    first = guest.channel
    guest.rotate()
    guest.rotate()
    third = guest.channel
    assert way._take(first, guest.record) and way._newest(first) == third
    guest.rotate()
    fourth = guest.channel
    assert way._take(third, guest.record) and way._newest(first) == fourth
    guest.ring = KeyRing([X25519], now=0.0, places=64)
    restarted = guest.channel
    assert restarted != first
    assert way._newest(restarted) == restarted
    assert not way._take(restarted, guest.record)
    guest.rotate()
    assert way._take(restarted, guest.record) and way._newest(restarted) == guest.channel


def test_a_record_that_the_attested_key_did_not_sign_is_not_used(front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    other = SealedGuest([X25519])
    front.guests[0].rotate()
    front.altered = lambda _: other.record
    (found,) = talk.ask(PROMPT, decision=decision)
    assert isinstance(found, PrivmlError)
    assert front.opened == []


def test_after_a_restart_the_guest_is_judged_again_before_anything_is_sealed_for_it(front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    front.guests[0] = SealedGuest([X25519])
    ((answer, _),) = talk.ask(PROMPT, decision=decision)  # type: ignore[misc]
    assert answer.judged.decision.keys.section_sha256 == front.guests[0].keys.sha256
    assert front.prompts() == [PROMPT.body]


def test_what_may_have_effects_is_not_sent_again(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    renewed: list[bool] = []
    monkeypatch.setattr(talk.gate, "renew", lambda: renewed.append(True))
    front.outside = (400, "application/problem+json", PROBLEM)
    (found,) = talk.ask(NOTE, decision=decision)
    assert isinstance(found, NotOpened)
    assert [method for method, *_ in front.seen].count("POST") == 1
    assert renewed == [True], "the next request finds what is new"


def test_a_guest_that_is_not_accepted_gets_nothing(front: Front) -> None:
    """The operator puts a machine of its own behind the same address."""
    stranger = SealedGuest([X25519])
    stranger.document = lambda nonce: samples.document(  # type: ignore[method-assign]
        samples.extends(4 << 30, "evil"), nonce=nonce, keys=stranger.keys
    )
    front.guests.append(stranger)
    talk = Talk(front)
    decision = talk.gate.decide()
    assert sections(decision) == {front.guests[0].keys.sha256}
    for found in talk.ask(PROMPT, PROMPT, decision=decision):
        assert not isinstance(found, PrivmlError)
    assert {guest for guest, _ in front.opened} == {front.guests[0]}
    front.guests = [stranger]
    assert not Talk(front).gate.decide().open


def test_a_guest_that_was_not_seen_stays_until_its_judgement_is_too_old(front: Front) -> None:
    gone = SealedGuest([X25519])
    front.guests.append(gone)
    talk = Talk(front)
    assert len(sections(talk.gate.decide())) == 2
    front.guests.remove(gone)
    talk.now = 300.0
    decision = talk.gate.decide(fresh=True)
    assert gone.keys.sha256 in sections(decision)
    talk.now = 601.0
    assert [one.channel.keys.section_sha256 for one in talk.gate.recipients(decision)] == [
        front.guests[0].keys.sha256
    ]
    assert talk.gate.recipients(Decision(0.0)) == ()


def test_a_cut_answer_is_an_error_and_never_a_short_answer(front: Front) -> None:
    front.cut = True
    (found,) = Talk(front).ask(PROMPT)
    assert isinstance(found, HostError)
    assert found.message == "the sealed answer could not be opened: it was cut or altered, or is of another machine"


@pytest.mark.parametrize(
    "outside",
    [
        (200, "application/json", b'{"choices":[]}'),
        (200, "message/ohttp-chunked-res", b'{"choices":[]}'),
        (200, "message/ohttp-chunked-res", b""),
        (302, "text/html", b"<html>"),
        (400, "application/json", b'{"error":{"code":"replay"}}'),
        (403, "text/html", b"<html>"),
    ],
)
def test_nothing_outside_the_channel_is_an_answer(outside: tuple[int, str, bytes], front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    front.outside = outside
    found, note = talk.ask(PROMPT, NOTE, decision=decision)
    for one in (found, note):
        assert isinstance(one, HostError)
        assert "html" not in one.message


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_machine_is_said_in_words_of_our_own(status: int, front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    front.outside = (status, "text/html", b"<html>")
    ((answer, body),) = talk.ask(PROMPT, decision=decision)  # type: ignore[misc]
    assert (answer.status, answer.header(b"retry-after")) == (status, b"1")
    assert json.loads(body)["error"]["code"] == "busy"
    assert b"html" not in body


def test_a_hostile_terminator_does_not_make_guests_quote_at_every_request(front: Front) -> None:
    talk = Talk(front)
    decision = talk.gate.decide()
    front.outside = (400, "application/problem+json", PROBLEM)
    found = talk.ask(*[PROMPT] * 4, decision=decision)
    assert {type(one) for one in found} == {NotOpened}
    assert sum("attestation" in path for _, path, _ in front.seen) == 2


def test_a_guest_with_an_endless_record_does_not_shut_out_the_others(front: Front) -> None:
    front.guests.append(SealedGuest([X25519]))
    endless = front.guests[1].record
    front.altered = lambda data: bytes(200_000) if data == endless else data
    decision = Talk(front).gate.decide()
    assert decision.open
    assert sections(decision) == {front.guests[0].keys.sha256}


def test_a_stranger_that_names_the_keys_of_a_guest_does_not_shut_it_out(front: Front) -> None:
    honest, stranger = front.guests[0], SealedGuest([X25519])
    stranger.rotate()  # a higher number
    forged = stranger.record_of(honest.keys)
    front.guests.append(stranger)
    front.altered = lambda data: data if data == honest.record else forged
    decision = Talk(front).gate.decide()
    assert decision.open
    assert sections(decision) == {honest.keys.sha256}


def test_no_document_in_time_is_an_answer_that_is_missing(front: Front) -> None:
    """It must not end a judgement that is in force, as an unexpected error does."""
    with pytest.raises(HostError, match="no attestation document within 1e-09 s"):
        terminator(front).offered(1e-9)
    talk = Talk(front)
    talk.gate._timeout = 1e-9
    assert talk.gate.decide().unavailable


def test_without_a_record_the_verdict_names_it(front: Front) -> None:
    front.altered = lambda _: b"<html>"
    decision = Talk(front).gate.decide()
    assert [refusal.code for refusal in decision.refusals] == ["channel-record"]


def test_a_terminator_with_another_certificate_or_without_guests_is_no_address(front: Front, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    elsewhere = certificate(tmp_path / "other")
    with pytest.raises(HostError, match="certificate verify failed"):
        Terminator.at(front.url, elsewhere).offered(5)
    with pytest.raises(HostError, match="certificate verify failed"):
        Terminator.at(front.url.replace("127.0.0.1", "localhost"), front.authority).offered(5)
    with pytest.raises(HostError, match="certificate verify failed") as caught:
        Terminator.at(front.url).offered(5)
    assert caught.value.hint == "`--via-ca FILE` names the authorities of its certificate"
    (tmp_path / "no.pem").write_text("nothing")
    for wrong in (tmp_path / "no.pem", tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match="expected a PEM file"):
            Terminator.at(front.url, wrong)
    for url in ("http://127.0.0.1", "127.0.0.1", "https://127.0.0.1/v1"):
        with pytest.raises(UsageError, match="expected https://"):
            Terminator.at(url)
    assert Terminator.at("https://api.example").where.port == 443


def test_a_way_without_accepted_guests_sends_nothing(front: Front) -> None:
    talk = Talk(front)
    (found,) = talk.ask(PROMPT, decision=Decision(0.0, error=HostError("none")))
    assert isinstance(found, Refused)
    assert front.opened == []


@pytest.fixture
def trusting(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:  # noqa: F811
    """An image and the root of its simulated platform; the words that name them."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    captured(place)
    return ["--expect", "out/demo-cpu", "--allow-simulated", "root.pem"]


def test_verify_via_judges_a_guest_on_its_channel_key(
    front: Front, trusting: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    via = ["--via", front.url, "--via-ca", str(front.authority)]
    done = Outcome(capsys, "verify", *via, *trusting, "--html", "verdict.html")
    assert done.code == 10
    page = Path("verdict.html").read_text()
    assert f"a guest behind {front.url}, as of" in Page(page).text and "TLS key" not in page
    assert done.stdout.splitlines()[0].endswith(", for its channel key only: nothing may travel outside the channel")
    assert "note: channel not post-quantum" in done.stdout
    told = json.loads(Outcome(capsys, "verify", *via, *trusting, "--json").stdout)
    assert told["binding"] == "channel-key"
    other = SealedGuest([X25519])
    front.altered = lambda _: other.record_of(front.guests[0].keys)
    refused = Outcome(capsys, "verify", *via, *trusting)
    assert refused.code == 8
    assert "channel-key" in refused.stdout


def test_an_ordinary_client_is_answered_through_the_terminator(front: Front) -> None:
    with proxied(guests_behind(terminator(front), check)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", PROMPT.target, PROMPT.body, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"onetwo")
        connection.request("GET", "/healthz")
        told = json.loads(connection.getresponse().read())
        connection.close()
    assert told["verdict"]["binding"] == "channel-key"
    assert told["message"].endswith("nothing may travel outside the channel (1 guest)")
    assert front.prompts() == [PROMPT.body]


def test_the_proxy_takes_addresses_or_a_terminator(trusting: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["https://guest", "--via", "https://api.example"]):
        done = Outcome(capsys, "proxy", *words, *trusting)
        assert (done.code, done.stderr) == (
            2,
            "privml-build: expected one or more URLs, or --via URL, and not both\n",
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a URL, a FILE, or --via URL"),
        (["doc.json", "--via", "https://a.example"], "expected a URL, a FILE, or --via URL"),
        (["doc.json", "--via-ca", "a.pem"], "--via-ca goes with --via"),
        (["--via", "https://a.example", "--save", "b.json"], "--save: a bundle is about the key of a connection"),
        (["--via", "https://a.example", "--nonce", "00" * 32], "--nonce and --spki are for a captured document"),
    ],
)
def test_words_that_do_not_go_with_via(
    words: list[str], message: str, trusting: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done = Outcome(capsys, "verify", *words, *trusting)
    assert done.code == 2
    assert message in done.stderr


def test_a_callers_token_is_sealed_for_the_guest_that_it_names_and_for_no_other(front: Front, tmp_path: Path) -> None:
    front.guests += [SealedGuest([X25519]) for _ in range(2)]
    tokens = [Token(guest.keys.sha256, "a", 5).sign(Ed25519PrivateKey.generate().sign) for guest in front.guests[:2]]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    (tmp_path / "tokens").chmod(0o600)
    guests = guests_behind(terminator(front), check)
    guests.present = GuestTokens(tmp_path / "tokens").present

    async def prompts() -> list[bytes]:
        named = []
        for _ in range(4):
            answer = await guests.send(PROMPT)
            assert b"".join([piece async for piece in answer.pieces]) == b"onetwo"
            answer.close()
            assert answer.judged.decision.keys is not None
            named.append(answer.judged.decision.keys.section_sha256)
        guests.all[0].way.close()
        return named

    named = asyncio.run(prompts())
    assert set(named) == {guest.keys.sha256 for guest in front.guests[:2]}, "those with a token"
    assert len(front.opened) == 4
    for guest, request in front.opened:
        (shown,) = (value for name, value in request.fields if name == "authorization")
        assert guest_of(shown.removeprefix("Bearer ")) == guest.keys.sha256


def direct(front: Front) -> Guests:
    """The guest at the same address, as one that ends TLS itself."""
    pem = x509.load_pem_x509_certificate(front.authority.read_bytes())
    spki = hashlib.sha256(pem.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    front.guests = [SealedGuest([X25519], spki=spki)]

    def on_tls(document: bytes, nonce: bytes, key: bytes) -> Judgement:
        return attested.judge(
            document, samples.EXPECTED, samples.SIMULATED, now=samples.NOW, nonce=nonce, tls_spki_sha256=key
        )

    return Guests.at([front.url], on_tls)


@pytest.mark.parametrize("kind", ["direct", "behind"])
@pytest.mark.parametrize("leaves", ["closes", "is cancelled", "is cancelled before the head"])
def test_a_sealed_answer_that_is_left_ends_its_connection_and_leaves_no_task(
    front: Front, kind: str, leaves: str
) -> None:
    guests = guests_behind(terminator(front), check) if kind == "behind" else direct(front)
    (one,) = guests.all
    held = threading.Event()

    def pieces(request: Request) -> list[bytes]:
        if leaves == "is cancelled before the head" and request.content == CANARY:
            assert held.wait(20)
        return [bytes(32768)] * 200 if request.content == CANARY else [b"whole"]

    front.pieces = pieces
    long = replace(PROMPT, body=CANARY)

    async def reads() -> None:
        answer = await guests.send(long)
        try:
            async for _ in answer.pieces:
                await asyncio.sleep(60 if leaves == "is cancelled" else 0)
                break
        finally:
            answer.close()

    async def work() -> None:
        assert one.gate.decide().open
        reading = asyncio.create_task(reads())
        if leaves == "closes":
            await reading
        else:
            while not [request for _, request in front.opened if request.content == CANARY]:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert reading.cancelled()
        held.set()
        assert one.busy == 0
        answer = await guests.send(PROMPT)
        assert b"".join([piece async for piece in answer.pieces]) == b"whole"
        answer.close()
        assert one.busy == 0
        assert len(asyncio.all_tasks()) == 1
        way: Any = one.way
        assert len(way._carrier._idle if kind == "behind" else way._carrier._kept._idle) == 1, "the whole one"
        way.close()
        await asyncio.sleep(0.01)  # the transports close

    asyncio.run(work())
    gc.collect()
