"""Sealing requests for judged guests and opening their answers; the verdict on the channel key."""

from __future__ import annotations

import dataclasses

import attestation_samples as samples
import pytest
from sealed_guest import X25519, SealedGuest, answered

from privml.base.errors import EvidenceError, Refused
from privml.channel.kem import KEMS
from privml.channel.keyring import KeyRing
from privml.channel.ohttp import CHUNKED
from privml.channel.suites import CannotOpen
from privml.channel.wrapped import WRAPPED
from privml.client.channel import Channel, SealedRequest, repeatable, sealable
from privml.evidence.sections import TLS_KEY, Keys
from privml.verify.report import render
from privml.verify.verdict import Binding, Verdict

PROMPT = sealable("POST", "/v1/completions", (("content-type", "application/json"),), b'{"prompt":"a secret"}')


@pytest.fixture(scope="module")
def one() -> SealedGuest:
    return SealedGuest()


@pytest.fixture(scope="module")
def two() -> SealedGuest:
    return SealedGuest()


def codes(verdict: Verdict) -> list[str]:
    return [refusal.code for refusal in verdict.refusals]


def test_a_verdict_on_the_channel_key_says_so_in_its_first_line(one: SealedGuest) -> None:
    judgement = one.judgement()
    verdict = judgement.verdict
    assert verdict.refusals == ()
    first = render(verdict).splitlines()[0]
    assert first.startswith("ACCEPTED-SIMULATED")
    assert first.endswith(", for its channel key only: nothing may travel outside the channel")
    assert verdict.to_dict()["binding"] == "channel-key"
    assert samples.judge().verdict.to_dict()["binding"] == "tls-key"
    assert "channel key" not in render(samples.judge().verdict)


def test_its_keys_open_no_tls_connection(one: SealedGuest) -> None:
    keys = one.attested
    assert keys.binding is Binding.CHANNEL_KEY
    assert keys.channel_key == one.signer.public_key().public_bytes_raw()
    assert keys.find(*TLS_KEY) is None
    with pytest.raises(Refused, match="rests on the channel key"):
        _ = keys.tls_spki_sha256


def test_the_record_must_be_signed_by_the_attested_key_for_this_boot(one: SealedGuest, two: SealedGuest) -> None:
    data = one.record
    assert codes(one.judgement(two.record).verdict) == ["channel-key"]
    assert codes(one.judgement(one.record_of(two.keys)).verdict) == ["channel-key"], "of another boot"
    assert codes(samples.judge(tls_spki_sha256=None, channel_record=data).verdict) == ["channel-key"], "no such key"
    for bad in (b"", b"{}", data[:-1], data + b" ", data.replace(b'"payload"', b'"Payload"')):
        verdict = one.judgement(bad).verdict
        assert codes(verdict) == ["channel-record"], bad
        assert "no record" in render(verdict) or bad


def test_neither_key_replaces_the_nonce_or_the_document(one: SealedGuest) -> None:
    judged = samples.judge(one.document(), nonce=bytes(32), tls_spki_sha256=samples.SPKI, channel_record=one.record)
    assert codes(judged.verdict) == ["nonce"]
    assert judged.keys is None
    other = dataclasses.replace(samples.facts_of(one.document()), keys=SealedGuest().keys)
    assert codes(samples.judge(one.document(), facts=other, channel_record=one.record).verdict) == ["channel-key"]


def test_a_channel_without_ml_kem_is_noted(one: SealedGuest) -> None:
    notes = SealedGuest([X25519]).judgement().verdict.notes
    assert any(note.startswith("channel not post-quantum: ") for note in notes)
    assert not any("post-quantum" in note for note in one.judgement().verdict.notes)


def test_post_quantum_is_chosen_whatever_the_order() -> None:
    guest = SealedGuest([X25519, KEMS[0x647A]])
    assert guest.channel.config.kem.post_quantum
    assert len(guest.channel.record.configs) == 2


def test_a_request_and_its_answer_in_any_pieces(one: SealedGuest) -> None:
    sealed = SealedRequest([one.channel], PROMPT)
    assert sealed.form is CHUNKED
    assert b"secret" not in sealed.body
    request, opened = one.open(sealed.form.request_type, sealed.body)
    assert request == PROMPT
    pieces = answered(opened, [b"one", b"two"], fields=(("content-type", "text/plain"),), trailers=(("a", "b"),))
    answer = sealed.answer()
    assert answer.status is None
    assert answer.channel is None
    got = [answer.feed(piece) for piece in pieces[:-1]]
    assert got[-2:] == [b"one", b"two"], "each token as soon as it is there"
    assert (answer.status, answer.fields) == (200, (("content-type", "text/plain"),))
    assert answer.channel is not None
    assert answer.channel.keys == one.attested
    for at in range(len(pieces[-1])):
        assert answer.feed(pieces[-1][at : at + 1]) == b""
    assert answer.end() == b""
    assert answer.trailers == (("a", "b"),)


def test_the_same_request_is_not_opened_twice(one: SealedGuest) -> None:
    sealed = SealedRequest([one.channel], PROMPT)
    one.open(sealed.form.request_type, sealed.body)
    with pytest.raises(Refused, match="opened before"):
        one.open(sealed.form.request_type, sealed.body)


def test_lengths_of_requests_are_padded(one: SealedGuest) -> None:
    sizes = {
        len(SealedRequest([one.channel], sealable("POST", "/v1/x", (), bytes(n))).body) for n in range(0, 200, 9)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("guests", [1, 2])
def test_a_cut_or_altered_answer_is_one_error(guests: int, one: SealedGuest, two: SealedGuest) -> None:
    channels = [one.channel, two.channel][:guests]

    def asked() -> tuple[SealedRequest, list[bytes], list[bytes]]:
        sealed = SealedRequest(channels, PROMPT)
        _, opened = one.open(sealed.form.request_type, sealed.body)
        whole = answered(opened, [b"token"])
        _, again = one.open(*(lambda s: (s.form.request_type, s.body))(SealedRequest(channels, PROMPT)))
        return sealed, whole, answered(again, [b"token"])

    sealed, whole, foreign = asked()
    joined = b"".join(whole)
    altered = {
        "no final chunk": joined[: -len(whole[-1])],
        "cut inside the final chunk": joined[:-1],
        "more behind it": joined + b"x",
        "the answer to another request": b"".join(foreign),
        "one bit": joined[:-3] + bytes([joined[-3] ^ 1]) + joined[-2:],
        "nothing": b"",
    }
    for name, data in altered.items():
        answer = sealed.answer()
        with pytest.raises(CannotOpen, match=r"^sealed message: could not be opened$"):
            answer.feed(data)
            answer.end()
            pytest.fail(name)
        with pytest.raises(EvidenceError):
            answer.feed(b"")
    answer = sealed.answer()
    assert answer.feed(joined) + answer.end() == b"token"


def test_an_authentic_answer_that_ends_early_is_the_same_error(one: SealedGuest) -> None:
    sealed = SealedRequest([one.channel], PROMPT)
    _, opened = one.open(sealed.form.request_type, sealed.body)
    sealer = opened.response()
    answer = sealed.answer()
    answer.feed(sealer.start + sealer.final(b"\x03\x40\xc8\x00\x05ab"))
    with pytest.raises(CannotOpen):
        answer.end()


def test_any_of_several_guests_answers_and_is_named(one: SealedGuest, two: SealedGuest) -> None:
    stranger = SealedGuest()
    for guest in (one, two):
        sealed = SealedRequest([one.channel, two.channel], PROMPT)
        assert sealed.form is WRAPPED
        request, opened = guest.open(sealed.form.request_type, sealed.body)
        assert request == PROMPT
        answer = sealed.answer()
        assert answer.feed(b"".join(answered(opened, [b"mine"]))) == b"mine"
        assert answer.channel is not None
        assert answer.channel.keys == guest.attested
        with pytest.raises(CannotOpen):
            stranger.open(sealed.form.request_type, sealed.body)


def test_a_channel_is_made_of_attested_keys_and_their_record_only(one: SealedGuest, two: SealedGuest) -> None:
    with pytest.raises(Refused, match="not signed by the attested channel key"):
        Channel.of(one.attested, two.record)
    with pytest.raises(Refused, match="of keys section"):
        Channel.of(one.attested, one.record_of(Keys(())))
    without = samples.judge().keys
    assert without is not None
    with pytest.raises(Refused, match="the guest has none"):
        Channel.of(without, one.record)


def test_a_record_of_dropped_keys_only_denies_service() -> None:
    guest = SealedGuest([X25519])
    old, before = guest.channel, guest.record
    guest.rotate()
    assert Channel.of(guest.attested, before) == old, "signed for this boot"
    sealed = SealedRequest([old], PROMPT)
    with pytest.raises(CannotOpen):
        guest.open(sealed.form.request_type, sealed.body)
    sealed = SealedRequest([guest.channel], PROMPT)
    assert guest.open(sealed.form.request_type, sealed.body)[0] == PROMPT


def test_no_more_guests_than_a_request_can_name(one: SealedGuest) -> None:
    ring = KeyRing([X25519], now=0.0, places=2)
    channel = one.channel
    many = []
    for _ in range(17):
        ring.advance(ring.next_change)
        many.append(dataclasses.replace(channel, config=ring.configs[0]))
    for wrong in ([], many):
        with pytest.raises(EvidenceError, match="expected 1 to 16"):
            SealedRequest(wrong, PROMPT)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [("POST", "/v1/chat/completions", True), ("GET", "/x/notes/a", True), ("POST", "/x/notes/a", False)],
)
def test_what_may_be_sent_again(method: str, path: str, expected: bool) -> None:
    assert repeatable(method, path) is expected


def test_fields_that_a_sealed_request_cannot_have_are_refused() -> None:
    for fields in ((("a", "caf\xe9"),), (("connection", "close"),), (("A", "b"),)):
        with pytest.raises(EvidenceError):
            sealable("GET", "/v1/models", fields, b"").encode()
