"""Receipts as the guest makes them: of the bytes that passed, complete or cut, and never two of one answer."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import h11
import pytest
from agent_guest import ENGINE, NO_MODEL, Guest, a_config, a_model, guest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.agent import headers
from privml.agent.answers import Answer, Asked, Denied
from privml.agent.callers import boot_seconds
from privml.agent.receipts import KEPT, Receipts, nonce_of
from privml.base.errors import HostError, Refused
from privml.base.strictjson import canonical
from privml.channel import receipt
from privml.channel.receipt import Receipt, Usage
from privml.evidence import document
from privml.evidence.sections import CHANNEL_KEY, RECEIPT_KEY, Keys

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = SIGNER.public_key().public_bytes_raw()
SECTION = b"the keys section"
NONCE = "5a" * 32
NOW = 20
FIRST = NOW * 65536 + 1
"""The number of the first answer of a server that started `NOW` seconds after the boot."""
EVENTS = b'data: {"choices":[]}\n\ndata: {"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
SSE = [(b"content-type", b"text/event-stream")]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def made(config: object = None) -> Receipts:
    return Receipts(config or replace(a_config(), sha256="cc" * 32), SIGNER, SECTION, lambda: NOW)  # type: ignore[arg-type]


def asked(body: bytes = b"{}", **more: object) -> Asked:
    return Asked("POST", "/v1/completions", [], lambda _: body, **more)  # type: ignore[arg-type]


def answered(receipts: Receipts, pieces: Sequence[bytes], fields: Sequence[tuple[bytes, bytes]] = SSE) -> Answer:
    answer = Answer(200, list(fields), iter(pieces))
    return receipts.of(answer, asked(), nonce=None, received=b"{}", forwarded=b"{ }")


def sent(answer: Answer, limit: int | None = None) -> bytes:
    """Take an answer as a connection does, up to ``limit`` pieces."""
    with contextlib.closing(answer):
        taken = []
        for piece in answer.pieces:
            if len(taken) == limit:
                break
            taken.append(piece)
        return b"".join(taken)


def of(receipts: Receipts, answer: Answer) -> Receipt:
    """The kept receipt of an answer, which its trailer also has."""
    (name,) = [value.decode() for name, value in answer.headers if name == b"privml-receipt-id"]
    envelope = receipts.find(name)
    assert envelope is not None
    assert answer.trailers() == [(b"privml-receipt", base64.b64encode(envelope))]
    found = receipt.verify(envelope, key=KEY)
    assert found.id.hex() == name
    return found


def test_a_receipt_says_what_was_received_run_and_sent() -> None:
    receipts = made()
    answer = receipts.of(
        Answer(201, SSE, iter([EVENTS])),
        asked(channel="ohttp", enc_sha256=b"\1" * 32),
        nonce=b"\2" * 32,
        received=b"the request",
        forwarded=b"what the engine got",
    )
    assert sent(answer) == EVENTS
    found = of(receipts, answer)
    assert (found.request.sha256, found.request.size) == (digest(b"the request"), 11)
    assert found.forwarded_sha256 == digest(b"what the engine got")
    assert (found.response.sha256, found.response.size, found.complete) == (digest(EVENTS), len(EVENTS), True)
    assert (found.method, found.path, found.status) == ("POST", "/v1/completions", 201)
    assert (found.content_type, found.usage) == ("text/event-stream", Usage(4, 2))
    assert (found.nonce, found.channel, found.enc_sha256) == (b"\2" * 32, "ohttp", b"\1" * 32)
    origin = found.origin
    assert (origin.keys_sha256, origin.config_sha256, origin.variant) == (
        digest(SECTION),
        b"\xcc" * 32,
        "development",
    )
    assert (origin.model, origin.engine.name) == (receipt.Model("tiny", b"\xaa" * 32), "llama-server")
    assert origin.engine.argv_sha256 == digest(canonical(list(ENGINE.argv)))


def test_a_configuration_with_several_models_names_none() -> None:
    receipts = made(replace(a_config(models=(a_model(), a_model("small", 0xBB))), sha256="cc" * 32))
    answer = answered(receipts, [b"x"])
    sent(answer)
    assert of(receipts, answer).origin.model is None


@pytest.mark.parametrize("size", [1, 16 * 1024, None])
def test_how_an_answer_is_cut_into_pieces_does_not_matter(size: int | None) -> None:
    data = random.Random(2).randbytes(40_000)
    if size is None:
        cuts = sorted(random.Random(3).sample(range(len(data)), 50))
        pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, None], strict=True)]
    else:
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
    receipts = made()
    answer = answered(receipts, pieces, [])
    assert sent(answer) == data
    assert of(receipts, answer).response.sha256 == digest(data)


def test_an_answer_without_a_body_has_a_receipt() -> None:
    receipts = made()
    answer = answered(receipts, [])
    assert sent(answer) == b""
    found = of(receipts, answer)
    assert (found.response.sha256, found.response.size, found.complete) == (digest(b""), 0, True)


def test_an_abandoned_answer_is_cut_after_the_last_piece_that_was_sent() -> None:
    receipts = made()
    answer = answered(receipts, [b"one", b"two", b"three"])
    assert sent(answer, 2) == b"onetwo"
    found = of(receipts, answer)
    assert (found.complete, found.response.sha256, found.response.size) == (False, digest(b"onetwo"), 6)
    unread = answered(receipts, [b"one"])
    unread.close()
    assert (of(receipts, unread).complete, of(receipts, unread).response.size) == (False, 0)


def test_an_answer_that_the_engine_ends_early_is_cut() -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise HostError("engine: gone")

    receipts = made()
    answer = receipts.of(Answer(200, SSE, broken()), asked(), nonce=None, received=b"", forwarded=b"")
    with pytest.raises(HostError):
        sent(answer)
    found = of(receipts, answer)
    assert (found.complete, found.response.sha256) == (False, digest(b"one"))


def test_closing_gives_back_what_the_answer_occupies_once() -> None:
    closed: list[str] = []
    receipts = made()
    for pieces in ([b"x"], []):
        inner = Answer(200, SSE, iter(pieces), close=lambda: closed.append("closed"))
        answer = receipts.of(inner, asked(), nonce=None, received=b"", forwarded=b"")
        sent(answer)
    assert closed == ["closed", "closed"]


def test_two_answers_at_once_share_neither_id_nor_digests() -> None:
    receipts = made()
    first, second = answered(receipts, [b"a", b"b"]), answered(receipts, [b"x", b"y", b"z"])
    taken: list[list[bytes]] = [[], []]
    flows = [iter(first.pieces), iter(second.pieces)]
    for at in (0, 1, 1, 0, 1):
        taken[at].append(next(flows[at]))
    assert [next(flow, None) for flow in flows] == [None, None]
    found = [of(receipts, answer) for answer in (first, second)]
    assert [one.response.sha256 for one in found] == [digest(b"".join(each)) for each in taken]
    assert [one.seq for one in found] == [FIRST, FIRST + 1]
    assert found[0].id != found[1].id


def test_the_clock_of_the_numbers_is_that_of_the_boot() -> None:
    before = boot_seconds() * 65536
    assert before < Receipts(replace(a_config(), sha256="cc" * 32), SIGNER, SECTION)._count + 1 < before + 10 * 65536


def test_numbers_and_ids_are_given_once_by_many_threads() -> None:
    receipts = made()
    found: list[Receipt] = []

    def answers() -> None:
        for _ in range(25):
            answer = answered(receipts, [b"x"])
            sent(answer)
            found.append(of(receipts, answer))

    threads = [threading.Thread(target=answers) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.seq for one in found) == list(range(FIRST, FIRST + 100))
    assert len({one.id for one in found}) == 100


def test_the_oldest_receipts_are_dropped() -> None:
    receipts = made()
    ids = []
    for number in range(KEPT + 2):
        ended = replace(SAMPLE, id=number.to_bytes(16), seq=number + 1)
        receipts.keep(ended)
        ids.append(ended.id.hex())
    assert [receipts.find(each) is None for each in ids] == [True, True, *[False] * KEPT]
    assert receipts.find("") is None


SAMPLE = Receipt(
    id=bytes(16), seq=1,
    origin=receipt.Origin(bytes(32), bytes(32), "production", None, receipt.Engine("e", bytes(32))),
    method="POST", path="/v1/completions", request=receipt.Body(bytes(32), 0), forwarded_sha256=bytes(32), status=200,
    content_type="", response=receipt.Body(bytes(32), 0), complete=True,
)  # fmt: skip


@pytest.mark.parametrize(
    "values", [[b""], [b"5a"], [b"5A" * 32], [b"5a" * 33], [b"5a" * 32] * 2, [b"5a" * 16] * 2, [b"\xe9" * 64]]
)
def test_a_malformed_nonce_is_refused(values: list[bytes]) -> None:
    request = Asked("POST", "/", [(b"privml-nonce", value) for value in values], lambda _: b"")
    with pytest.raises(Denied, match="expected 64 lower-case hex digits, once") as caught:
        nonce_of(request)
    assert (caught.value.status, caught.value.code) == (400, "nonce")


# --- over TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    """A guest that has passed every stage."""
    with guest() as running:
        running.start_server()
        assert running.boot().run(), running.said
        yield running


def keys_of(guest: Guest) -> Keys:
    _, _, data = guest.request("GET", f"/.well-known/privml-attestation?nonce={NONCE}")
    return Keys.decode(document.parse(data).keys)


def exchange(guest: Guest, body: bytes, *more: tuple[str, str], path: str = "/v1/completions") -> dict[str, object]:
    """Status, headers, body and trailers of one POST."""
    client = h11.Connection(h11.CLIENT)
    fields = [("host", "a"), ("content-length", str(len(body))), ("connection", "close"), *more]
    data = client.send(h11.Request(method="POST", target=path, headers=fields))
    assert data is not None
    client.receive_data(guest.raw(data + body))
    client.receive_data(b"")
    client.send(h11.Data(data=body))
    client.send(h11.EndOfMessage())
    head = client.next_event()
    assert isinstance(head, h11.Response)
    got = b""
    while isinstance(event := client.next_event(), h11.Data):
        got += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return {
        "status": head.status_code,
        "headers": {name.decode(): value.decode() for name, value in head.headers},
        "body": got,
        "trailers": {name.decode(): value.decode() for name, value in event.headers},
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_reads_trailers_gets_the_receipt_in_one(served: Guest, stream: bool) -> None:
    body = json.dumps({"prompt": "hi", "stream": stream}).encode()
    found = exchange(served, body, ("te", "deflate, Trailers"), ("privml-nonce", NONCE))
    head, trailers = found["headers"], found["trailers"]
    assert isinstance(head, dict)
    assert isinstance(trailers, dict)
    assert (head["trailer"], head["transfer-encoding"]) == ("privml-receipt", "chunked")
    assert "content-length" not in head
    envelope = receipt.of_trailer(trailers["privml-receipt"])
    keys = keys_of(served)
    key = keys.find(*RECEIPT_KEY)
    assert key is not None
    got = receipt.verify(envelope, key=key)
    assert got.origin.keys_sha256 == digest(keys.encode())
    assert got.origin.config_sha256 == digest(served.layout.config.read_bytes())
    assert (got.request.sha256, got.response.sha256) == (digest(body), digest(found["body"]))  # type: ignore[arg-type]
    assert got.forwarded_sha256 == digest(served.engine.requests[-1][2])
    assert (got.complete, got.nonce, got.channel) == (True, bytes.fromhex(NONCE), "tls")
    assert head["privml-receipt-id"] == got.id.hex()
    assert served.request("GET", f"/v1/receipts/{got.id.hex()}")[2] == envelope
    channel = keys.find(*CHANNEL_KEY)
    assert channel is not None
    with pytest.raises(Refused):
        receipt.verify(envelope, key=channel)


def test_a_caller_that_does_not_say_so_gets_no_trailers(served: Guest) -> None:
    for body in (b'{"prompt":"hi"}', b'{"prompt":"hi","stream":true}'):
        found = exchange(served, body)
        assert found["trailers"] == {}
        got = found["headers"]
        assert isinstance(got, dict)
        assert ("content-length" in got) == (b"stream" not in body)
        assert "trailer" not in got
        assert served.request("GET", f"/v1/receipts/{got['privml-receipt-id']}")[0] == 200


def test_an_older_client_gets_no_trailers(served: Guest) -> None:
    body = b'{"prompt":"hi","stream":true}'
    head = b"POST /v1/completions HTTP/1.0\r\nhost: a\r\nte: trailers\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = served.raw(head + body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ntrailer:" not in head
    assert rest == b"data: one\n\ndata: two\n\n"


def test_errors_of_the_engine_have_a_receipt_and_those_of_the_agent_have_none(served: Guest) -> None:
    served.engine.completion_status = 500
    try:
        found = exchange(served, b'{"prompt":"hi"}', ("te", "trailers"))
    finally:
        served.engine.completion_status = 200
    envelope = receipt.of_trailer(found["trailers"]["privml-receipt"])  # type: ignore[index]
    key = keys_of(served).find(*RECEIPT_KEY)
    assert receipt.verify(envelope, key=key or b"").status == 500
    before = len(served.engine.requests)
    for body, more in ((b"no JSON", ()), (b'{"prompt":"hi"}', (("privml-nonce", "5A" * 32),))):
        found = exchange(served, body, ("te", "trailers"), *more)
        assert (found["status"], found["trailers"]) == (400, {})
        assert "privml-receipt-id" not in found["headers"]  # type: ignore[operator]
    assert len(served.engine.requests) == before
    for method, path in (("HEAD", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/healthz")):
        assert "privml-receipt-id" not in served.request(method, path)[1]


def test_a_wrong_id_and_an_unknown_one_get_the_same_answer(served: Guest) -> None:
    answers = {
        served.request("GET", f"/v1/receipts/{name}")[::2]
        for name in ("00" * 16, "", "x", "0" * 31, "../receipts", "%30", "00" * 16 + "?a=b")
    }
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404
    assert served.request("POST", "/v1/receipts/" + "00" * 16, b"{}")[0] == 405


def test_a_stream_whose_engine_dies_leaves_a_receipt_that_says_so(served: Guest) -> None:
    served.engine.break_after = 1
    try:
        answer = served.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-length: 29\r\n\r\n"
            b'{"prompt":"hi","stream":true}'
        )
    finally:
        served.engine.break_after = None
    assert answer.endswith(b"data: one\n\n\r\n")  # no last chunk, so no trailers
    name = answer.partition(b"privml-receipt-id: ")[2][:32].decode()
    served.wait_for(lambda: served.request("GET", f"/v1/receipts/{name}")[0] == 200, "the receipt")
    envelope = served.request("GET", f"/v1/receipts/{name}")[2]
    found = receipt.verify(envelope, key=keys_of(served).find(*RECEIPT_KEY) or b"")
    assert (found.complete, found.response.sha256) == (False, digest(b"data: one\n\n"))


def test_only_the_agent_names_a_receipt() -> None:
    """An engine or a service that sends such a header itself does not get it through."""
    kept = [(b"content-type", b"text/plain"), (b"x-privml-receipt-id", b"00")]
    assert headers.returned([*kept, (b"privml-receipt-id", b"00"), (b"privml-nonce", b"00")]) == kept


def test_a_guest_without_a_model_gives_no_receipts() -> None:
    receipts = made(replace(a_config(**NO_MODEL), sha256="cc" * 32))
    assert receipts.find("00" * 16) is None
