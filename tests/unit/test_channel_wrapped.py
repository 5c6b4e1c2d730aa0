"""Requests for any one of several guests: who can open them, who can answer, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.channel_vectors import changes

from privml.base.errors import EvidenceError
from privml.channel import wrapped
from privml.channel.chunks import ChunkSealer
from privml.channel.kem import X25519, X_WING
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey, KeyRing
from privml.channel.ohttp import CHUNKED, OpenedRequest, ResponseSealer
from privml.channel.replay import Replayed, SetFull
from privml.channel.suites import AEADS, CannotOpen
from privml.channel.wrapped import WrappedRequest, WrappedRequestOpener, recipient_id

ONE_ERROR = r"^sealed message: could not be opened$"


def guest(*kems: object, places: int = 64) -> KeyRing:
    chosen = [kem for kem in (X_WING, X25519) if kem in (kems or (X25519,))]
    return KeyRing(chosen, now=0, places=places)


def guest_with(ring: KeyRing) -> KeyRing:
    """A guest with the key of ``ring``, which has opened nothing yet."""
    other = guest()
    key = ring.alive[0]
    other._alive = (replace(other._alive[0], keys=(replace(key, opened=other.alive[0].opened),)),)
    return other


def opened(ring: KeyRing, sealed: bytes, step: int = 10**6) -> OpenedRequest:
    opener = WrappedRequestOpener(lambda: ring.alive)
    for at in range(0, len(sealed), step):
        opener.feed(sealed[at : at + step])
    found = opener.end()
    found.remember()
    return found


def sealed_for(rings: list[KeyRing], plain: bytes = b"prompt") -> tuple[WrappedRequest, bytes]:
    caller = WrappedRequest([ring.configs[0] for ring in rings])
    return caller, caller.start + caller.chunk(plain[:2]) + caller.final(plain[2:])


@pytest.mark.parametrize("kem", [X25519, X_WING], ids=["x25519", "x-wing"])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_each_recipient_opens_the_request_and_its_answer_says_who_it_was(kem: object, count: int) -> None:
    rings = [guest(kem) for _ in range(count)]
    caller, sealed = sealed_for(rings)
    for ring in rings:
        request = opened(ring, sealed, 700)
        assert request.plain == b"prompt"
        sealer = request.response()
        response = caller.response()
        assert response.feed(sealer.start[:3]) == response.feed(sealer.start[3:]) == b""
        assert response.answered_by is None
        assert response.feed(sealer.chunk(b"token")) == b"token"
        assert response.answered_by == ring.configs[0]
        response.feed(sealer.final(b"!"))
        assert not response.complete
        assert response.end() == b"!"
        assert response.complete


def test_recipients_may_have_different_kems() -> None:
    rings = [guest(X_WING, X25519), guest(X25519)]
    caller, sealed = sealed_for(rings)
    assert [opened(ring, sealed).key.config.kem for ring in rings] == [X_WING, X25519]
    assert len(caller.start) == 4 + (8 + 2 + 1120 + 48) + (8 + 2 + 32 + 48)


def test_a_guest_that_is_no_recipient_cannot_open_it() -> None:
    _, sealed = sealed_for([guest(), guest()])
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opened(guest(), sealed)


def test_every_change_of_a_request_is_refused_by_each_recipient() -> None:
    rings = [guest(), guest()]
    _, sealed = sealed_for(rings)
    for changed in changes(sealed):
        for ring in rings:
            with pytest.raises(CannotOpen, match=ONE_ERROR):
                opened(ring, changed)
    assert all(len(ring.alive[0].opened) == 0 for ring in rings)
    assert [opened(ring, sealed).plain for ring in rings] == [b"prompt", b"prompt"]


def test_every_change_of_a_response_is_refused() -> None:
    rings = [guest(), guest()]
    caller, sealed = sealed_for(rings)
    answer = opened(rings[0], sealed).response()
    whole = answer.start + answer.chunk(b"an") + answer.final(b"swer")
    for changed in changes(whole):
        response = caller.response()
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            response.feed(changed)
            response.end()
        for call in (lambda: response.feed(b""), response.end):  # noqa: B023 (called before the next turn)
            with pytest.raises(CannotOpen, match=ONE_ERROR):
                call()
        assert not response.complete
    response = caller.response()
    assert response.feed(whole) + response.end() == b"answer"


def test_recipients_cannot_be_removed_added_or_exchanged() -> None:
    rings = [guest(), guest()]
    caller, sealed = sealed_for(rings)
    size = (len(caller.start) - 4) // 2
    first, second, body = sealed[4 : 4 + size], sealed[4 + size : 4 + 2 * size], sealed[4 + 2 * size :]
    other = sealed_for([guest()])[1][4 : 4 + size]
    head = sealed[:3]
    for parts in ((b"\1", first), (b"\2", second, first), (b"\3", first, second, other), (b"\2", first, other)):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            opened(rings[0], head + b"".join(parts) + body)
    assert opened(rings[0], head + b"\2" + first + second + body).plain == b"prompt"


def test_a_recipient_that_is_there_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapped, "os", SimpleNamespace(urandom=bytes))
    ring = guest()
    start = WrappedRequest(ring.configs).start
    for count in (1, 2):
        header = start[:3] + bytes([count]) + start[4:] * count
        sealed = header + ChunkSealer(wrapped._body_keys(AEADS[2], bytes(32), header)).final(b"x")
        if count == 1:
            assert opened(ring, sealed).plain == b"x"
        else:
            with pytest.raises(CannotOpen, match=ONE_ERROR):
                opened(guest_with(ring), sealed)


def test_a_recipient_cannot_answer_in_the_name_of_another() -> None:
    rings = [guest(), guest()]
    caller, sealed = sealed_for(rings)
    request = opened(rings[0], sealed)
    forged = request.prefixed(recipient_id(rings[1].configs[0].public)).response()
    response = caller.response()
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        response.feed(forged.start + forged.final(b"answer"))
        response.end()
    assert response.answered_by is None
    stranger = request.prefixed(bytes(8)).response()
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        caller.response().feed(stranger.start)
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        caller.response().end()
    ohttp = ResponseSealer(request.context, CHUNKED, prefix=recipient_id(rings[0].configs[0].public))
    response = caller.response()
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        response.feed(ohttp.start + ohttp.final(b"answer"))
        response.end()


def test_each_recipient_runs_a_request_once() -> None:
    rings = [guest(places=2), guest(places=2)]
    _, sealed = sealed_for(rings)
    for ring in rings:
        assert opened(ring, sealed).plain == b"prompt"
        with pytest.raises(Replayed):
            opened(ring, sealed)
        with pytest.raises(SetFull):
            opened(ring, sealed_for(rings)[1])


def test_nothing_is_given_out_before_the_final_chunk() -> None:
    ring = guest()
    caller = WrappedRequest(ring.configs)
    opener = WrappedRequestOpener(lambda: ring.alive)
    opener.feed(caller.start + caller.chunk(b"prompt"))
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opener.end()


def test_an_entry_of_another_kem_or_an_aead_that_is_not_offered_is_refused() -> None:
    ring = guest()
    key = ring.alive[0]
    narrow = GatewayKey(KeyConfig(1, X25519, key.config.public, ((1, 3),)), key.private, key.opened)
    _, sealed = sealed_for([ring])
    opener = WrappedRequestOpener(lambda: (narrow,))
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opener.feed(sealed)
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opened(ring, b"\1\0\2\1" + recipient_id(key.config.public) + b"\x64\x7a" + bytes(1120 + 48 + 17))


@pytest.mark.parametrize("count", [0, 17])
def test_one_to_sixteen_recipients_are_expected(count: int) -> None:
    configs = [KeyConfig.of(1, X25519, X25519.generate().public) for _ in range(count)]
    with pytest.raises(EvidenceError, match=rf"^recipients: {count}, expected 1 to 16, each once$"):
        WrappedRequest(configs)


def test_recipients_that_cannot_be_used_are_refused() -> None:
    config = guest().configs[0]
    with pytest.raises(EvidenceError, match=r"^recipients: 2, expected 1 to 16, each once$"):
        WrappedRequest([config, config])
    with pytest.raises(EvidenceError, match=r"^recipients: a x-wing key without AES-128-GCM, expected it for all$"):
        WrappedRequest(guest(X_WING).configs, AEADS[1])
    with pytest.raises(EvidenceError, match=r"^key config: unusable x25519 key"):
        WrappedRequest([KeyConfig.of(1, X25519, bytes(32))])
    assert WrappedRequest([config], AEADS[1]).start[:4] == b"\1\0\1\1"


def test_the_requests_key_is_bound_to_everything_before_the_chunks() -> None:
    """Who holds the request key and another header makes another body."""
    key = bytes(32)
    bodies = {ChunkSealer(wrapped._body_keys(AEADS[2], key, header)).final(b"x") for header in (b"a", b"b")}
    assert len(bodies) == 2
