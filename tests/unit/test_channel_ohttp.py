"""Oblivious HTTP, plain and in chunks: the standards' examples, streams, and every way to break them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.channel_vectors import changes, gateway_key, only, vector

from privml.base.errors import EvidenceError
from privml.channel import varint
from privml.channel.chunks import (
    FINAL,
    REQUEST_LIMITS,
    RESPONSE_LIMITS,
    SENT_CHUNK,
    ChunkLimits,
    ChunkOpener,
    ChunkSealer,
)
from privml.channel.kem import KEMS, X25519, Kem, encapsulate_x25519_with
from privml.channel.keyconfig import KeyConfig
from privml.channel.keyring import GatewayKey
from privml.channel.ohttp import (
    CHUNKED,
    HEADER_SIZE,
    PLAIN,
    CallerRequest,
    Form,
    OpenedRequest,
    RequestOpener,
    ResponseOpener,
    ResponseSealer,
)
from privml.channel.replay import Replayed, ReplaySet, SetFull
from privml.channel.suites import AEADS, TAG_SIZE, CannotOpen, Sequence

ONE_ERROR = r"^sealed message: could not be opened$"


def opened(
    key: GatewayKey, sealed: bytes, form: Form, step: int = 10**6, limits: ChunkLimits = REQUEST_LIMITS
) -> OpenedRequest:
    opener = RequestOpener(only(key), form, limits)
    for at in range(0, len(sealed), step):
        opener.feed(sealed[at : at + step])
    found = opener.end()
    found.remember()
    return found


def made(kem: Kem = X25519, places: int = 16) -> GatewayKey:
    private = kem.generate()
    return GatewayKey(KeyConfig.of(7, kem, private.public), private, ReplaySet(places))


EXAMPLES = [("rfc9458-example", PLAIN), ("chunked-ohttp-example", CHUNKED), ("chunked-ohttp-xwing-streamed", CHUNKED)]


@pytest.mark.parametrize(("name", "form"), EXAMPLES)
def test_the_request_of_the_example_opens_in_any_pieces(name: str, form: Form) -> None:
    sealed, plain = (bytes.fromhex(vector(name)[field]) for field in ("enc_request", "bhttp_request"))
    for step in (1, 7, 100, 10**6):
        request = opened(gateway_key(name), sealed, form, step)
        assert request.plain == plain
        exported = request.context.export(form.response_label, request.context.aead.secret_size)
        assert exported.hex() == vector(name)["exported"]


@pytest.mark.parametrize(("name", "form"), EXAMPLES[:2])
def test_the_example_is_made_byte_for_byte_with_its_ephemeral_key(name: str, form: Form) -> None:
    found, key = vector(name), gateway_key(name)
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(found["skE"]))
    fixed = replace(X25519, encapsulate=lambda public: encapsulate_x25519_with(ephemeral, public))
    caller = CallerRequest(replace(key.config, kem=fixed), AEADS[found["suite"]["aead"]], form)
    plain, sealed = (bytes.fromhex(found[field]) for field in ("bhttp_request", "enc_request"))
    answer, reply = (bytes.fromhex(found[field]) for field in ("enc_response", "bhttp_response"))
    size = caller._context.aead.secret_size
    if form is PLAIN:
        assert caller.whole(plain) == sealed
        assert ResponseSealer(caller._context, form, answer[:size]).whole(reply) == answer
        assert caller.open_response(answer) == reply
    else:  # the example's chunks have 12, 13 and no bytes; its response's 1, 2 and none
        chunks = caller.chunk(plain[:12]) + caller.chunk(plain[12:]) + caller.final()
        assert caller.start + chunks == sealed
        sealer = ResponseSealer(caller._context, form, answer[:size])
        assert sealer.start + sealer.chunk(reply[:1]) + sealer.chunk(reply[1:]) + sealer.final() == answer
        response = caller.response()
        assert response.feed(answer) == reply
        assert response.end() == b""
        assert response.complete


def test_the_streamed_response_of_another_program_opens_piece_by_piece_and_is_made_the_same() -> None:
    found = vector("chunked-ohttp-xwing-streamed")
    request = opened(gateway_key("chunked-ohttp-xwing-streamed"), bytes.fromhex(found["enc_request"]), CHUNKED)
    sealer = ResponseSealer(request.context, CHUNKED, bytes.fromhex(found["response_nonce"]))
    pieces = [bytes.fromhex(piece) for piece in found["bhttp_response_pieces"]]
    made_here = sealer.start + b"".join(map(sealer.chunk, pieces[:-1])) + sealer.final(pieces[-1])
    assert made_here == bytes.fromhex(found["enc_response"])


@pytest.mark.parametrize("kem", KEMS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("form", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_a_request_and_its_response_pass_for_every_aead(kem: Kem, form: Form) -> None:
    for aead in AEADS.values():
        key = made(kem)
        key = replace(key, config=replace(key.config, suites=((1, aead.id),)))
        caller = CallerRequest(key.config, aead, form)
        request = opened(key, caller.whole(b"prompt" * 5000), form, 999)
        assert request.plain == b"prompt" * 5000
        answer = request.response().whole(b"answer" * 5000)
        if form is PLAIN:
            assert caller.open_response(answer) == b"answer" * 5000
            continue
        response, plain = caller.response(), b""
        for at in range(0, len(answer), 777):
            plain += response.feed(answer[at : at + 777])
            assert not response.complete
        assert plain + response.end() == b"answer" * 5000
        assert response.complete


def test_tokens_are_given_out_as_they_come() -> None:
    key = made()
    caller = CallerRequest(key.config, AEADS[2])
    sealer = opened(key, caller.whole(b"q"), CHUNKED).response()
    response = caller.response()
    assert response.feed(sealer.start) == b""
    for token in (b"a", b"b", b"c"):
        assert response.feed(sealer.chunk(token)) == token
    response.feed(sealer.final(b"!"))
    assert response.end() == b"!"


# --- everything that is not what was sealed -------------------------------------------------------------------------


def small_request(form: Form) -> tuple[GatewayKey, CallerRequest, bytes]:
    key = made()
    caller = CallerRequest(key.config, AEADS[1], form)
    if form is PLAIN:
        return key, caller, caller.whole(b"prompt")
    return key, caller, caller.start + caller.chunk(b"pro") + caller.chunk(b"mp") + caller.final(b"t")


@pytest.mark.parametrize("form", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_every_change_of_a_request_is_refused_with_the_one_error(form: Form) -> None:
    key, _, sealed = small_request(form)
    tried = 0
    for changed in changes(sealed):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            opened(key, changed, form)
        tried += 1
    assert tried > 6 * len(sealed)
    assert len(key.opened) == 0, "what did not open takes no place among the requests that did"
    assert opened(key, sealed, form).plain == b"prompt"


def answer_of(caller: CallerRequest, data: bytes, form: Form) -> bytes:
    if form is PLAIN:
        return caller.open_response(data)
    response = caller.response()
    plain = response.feed(data)
    return plain + response.end()


@pytest.mark.parametrize("form", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_every_change_of_a_response_is_refused_with_the_one_error(form: Form) -> None:
    key, caller, sealed = small_request(form)
    sealer = opened(key, sealed, form).response()
    if form is PLAIN:
        answer = sealer.whole(b"answer")
    else:
        answer = sealer.start + sealer.chunk(b"ans") + sealer.chunk(b"we") + sealer.final(b"r")
    for changed in changes(answer):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            answer_of(caller, changed, form)
    assert answer_of(caller, answer, form) == b"answer"


def test_the_streamed_example_cut_anywhere_is_refused() -> None:
    found = vector("chunked-ohttp-xwing-streamed")
    answer = bytes.fromhex(found["enc_response"])
    context = opened(
        gateway_key("chunked-ohttp-xwing-streamed"), bytes.fromhex(found["enc_request"]), CHUNKED
    ).context
    for size in range(len(answer)):
        response = ResponseOpener(context, CHUNKED, RESPONSE_LIMITS)
        plain = response.feed(answer[:size])
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            response.end()
        assert not response.complete
        assert b"".join(map(bytes.fromhex, found["bhttp_response_pieces"])).startswith(plain)


def test_chunks_that_were_swapped_doubled_or_dropped_are_refused() -> None:
    key, caller, _ = small_request(CHUNKED)
    caller = CallerRequest(key.config, AEADS[1])
    one, two, last = caller.chunk(b"one"), caller.chunk(b"two"), caller.final(b"last")
    for body in (two + one + last, one + one + last, one + last, two + last, one + two, one + two + last + last):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            opened(key, caller.start + body, CHUNKED)
    assert opened(key, caller.start + one + two + last, CHUNKED).plain == b"onetwolast"


def sequences() -> tuple[Sequence, Sequence]:
    return Sequence(AEADS[1], bytes(16), bytes(12)), Sequence(AEADS[1], bytes(16), bytes(12))


def body_of(*chunks: tuple[bytes, bytes, bool]) -> tuple[bytes, Sequence]:
    """Chunks of (plaintext, associated data, with its length): what a hostile sender with the key can make."""
    sealing, opening = sequences()
    body = b""
    for plain, associated, counted in chunks:
        sealed = sealing.seal(plain, associated)
        body += varint.encode(len(sealed) if counted else 0) + sealed
    return body, opening


@pytest.mark.parametrize(
    ("chunks", "limits"),
    [
        (((b"a", b"", True), (b"b", b"", False)), {}),  # the last chunk without its label
        (((b"a", b"", True), (b"b", FINAL, True)), {}),  # the label on a chunk that is not the last
        (((b"", b"", True), (b"b", FINAL, False)), {}),  # an empty chunk that is not the last
        (((b"a" * 11, b"", True), (b"", FINAL, False)), {"chunk": 10}),
        (((b"a", b"", True), (b"b" * 11, FINAL, False)), {"chunk": 10}),
        (((b"a", b"", True), (b"a", b"", True), (b"", FINAL, False)), {"chunks": 2}),
        (((b"aaa", b"", True), (b"aaa", FINAL, False)), {"total": 5}),
    ],
)
def test_chunks_that_no_honest_sender_makes_are_refused(chunks: Any, limits: dict[str, int]) -> None:
    body, opening = body_of(*chunks)
    opener = ChunkOpener(opening, ChunkLimits(**limits))
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opener.feed(body)
        opener.end()
    for call in (lambda: opener.feed(b""), opener.end):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            call()


def test_a_final_chunk_without_its_mark_is_refused_though_it_would_open() -> None:
    for number in range(10000):
        body = sequences()[0].seal(number.to_bytes(4, "little"), FINAL)
        size = varint.Cursor(body, "body").varint()
        if 64 < size < 65536:  # it is read as the beginning of a longer chunk
            break
    else:
        raise AssertionError("no such body")
    opener = ChunkOpener(sequences()[1], ChunkLimits())
    assert opener.feed(body) == b""
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opener.end()


def test_chunks_at_the_limits_and_lengths_in_any_spelling_are_accepted() -> None:
    body, opening = body_of((b"a" * 10, b"", True), (b"b" * 10, FINAL, False))
    opener = ChunkOpener(opening, ChunkLimits(chunk=10, chunks=2, total=20))
    assert opener.feed(body) + opener.end() == b"a" * 10 + b"b" * 10
    body, opening = body_of((b"a", b"", True), (b"", FINAL, False))
    spelled = bytes([0x80, 0, 0, body[0]]) + body[1:]
    opener = ChunkOpener(opening, ChunkLimits())
    assert opener.feed(spelled) + opener.end() == b"a"


def test_what_waits_for_its_end_is_bounded() -> None:
    opener = ChunkOpener(sequences()[0], ChunkLimits(chunk=100))
    opener.feed(b"\0")
    opener.feed(bytes(100 + TAG_SIZE))
    with pytest.raises(CannotOpen):
        opener.feed(b"\0")
    opener = ChunkOpener(sequences()[0], ChunkLimits(chunk=100))
    with pytest.raises(CannotOpen):
        opener.feed(varint.encode(100 + TAG_SIZE + 1))
    opener = RequestOpener(only(made()), PLAIN, ChunkLimits(total=100))  # type: ignore[assignment]
    with pytest.raises(CannotOpen):
        opener.feed(CallerRequest(made().config, AEADS[1], PLAIN).whole(bytes(101)))


def test_long_parts_are_split_into_chunks_that_others_take() -> None:
    for size in (0, 1, SENT_CHUNK, SENT_CHUNK + 1, 3 * SENT_CHUNK):
        sealing, opening = sequences()
        sealer = ChunkSealer(sealing)
        body = sealer.chunk(b"x" * size) + sealer.final(b"y" * size)
        opener = ChunkOpener(opening, ChunkLimits(chunk=SENT_CHUNK))
        plain = opener.feed(body)
        assert plain + opener.end() == b"x" * size + b"y" * size
        for call in (sealer.chunk, sealer.final):
            with pytest.raises(ValueError, match=r"a chunk after the final one"):
                call(b"z")


@pytest.mark.parametrize("form", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_a_request_is_sealed_once(form: Form) -> None:
    caller = CallerRequest(made().config, AEADS[1], form)
    caller.whole(b"x")
    with pytest.raises(ValueError, match=r"a chunk after the final one"):
        caller.whole(b"x")


def test_nothing_of_a_request_is_given_out_before_its_final_chunk() -> None:
    key, _, sealed = small_request(CHUNKED)
    opener = RequestOpener(only(key))
    assert opener.feed(sealed[:-5]) is None
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opener.end()
    for call in (lambda: opener.feed(sealed[-5:]), opener.end):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            call()
    assert len(key.opened) == 0


def test_a_repeated_request_is_refused_after_it_opened_and_a_full_set_refuses_new_ones() -> None:
    key = made(places=4)  # two requests
    first, second, third = (CallerRequest(key.config, AEADS[1]).whole(b"x") for _ in range(3))
    opened(key, first, CHUNKED)
    with pytest.raises(Replayed, match=r"^request: was opened before$"):
        opened(key, first, CHUNKED)
    at = HEADER_SIZE + key.config.kem.encapsulated_size
    assert first[at] == 0  # the last chunk's length
    with pytest.raises(Replayed):  # written in more bytes it is the same request
        opened(key, first[:at] + b"\x40\x00" + first[at + 1 :], CHUNKED)
    with pytest.raises(CannotOpen):
        opened(key, first[:-1] + bytes([first[-1] ^ 1]), CHUNKED)
    opened(key, second, CHUNKED)
    with pytest.raises(SetFull, match=r"^request: the key has opened as many as it can$"):
        opened(key, third, CHUNKED)
    with pytest.raises(Replayed):
        opened(key, second, CHUNKED)
    assert len(key.opened) == 2


def test_the_forms_keys_and_algorithms_of_a_request_cannot_be_exchanged() -> None:
    key, caller, sealed = small_request(CHUNKED)
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opened(key, sealed, PLAIN)
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opened(replace(key, private=X25519.generate()), sealed, CHUNKED)
    narrow = replace(key, config=replace(key.config, suites=((1, 3),)))
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        opened(narrow, sealed, CHUNKED)
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        RequestOpener(lambda _: None).feed(sealed)
    other = CallerRequest(key.config, AEADS[1])
    answer = opened(key, sealed, CHUNKED).response().whole(b"answer")
    response = other.response()
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        response.feed(answer)
        response.end()
    assert answer_of(caller, answer, CHUNKED) == b"answer"


def test_a_response_that_ends_before_its_nonce_and_a_second_end_are_refused() -> None:
    key, caller, sealed = small_request(CHUNKED)
    response = caller.response()
    response.feed(bytes(5))
    with pytest.raises(CannotOpen, match=ONE_ERROR):
        response.end()
    answer = opened(key, sealed, CHUNKED).response().whole(b"answer")
    response = caller.response()
    response.feed(answer)
    assert response.end() == b"answer"
    for call in (lambda: response.feed(b""), response.end):
        with pytest.raises(CannotOpen, match=ONE_ERROR):
            call()


def test_an_unusable_key_in_a_configuration_is_an_error_of_the_configuration() -> None:
    for kem in KEMS.values():
        config = KeyConfig.of(1, kem, bytes(kem.public_size))
        with pytest.raises(EvidenceError, match=rf"^key config: unusable {kem.name} key"):
            CallerRequest(config, AEADS[2])
    assert HEADER_SIZE == 7
