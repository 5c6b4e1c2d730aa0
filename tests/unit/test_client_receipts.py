"""Receipts that a proxy asks for: what is sent, what is kept, and which answers are never ended."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
from receipt_samples import HONEST, KEYS, ORIGIN, signed
from tests.receipts import RECEIPT, body

from privml.base.errors import HostError, UsageError
from privml.channel import receipt
from privml.channel.receipt import Receipt
from privml.client import attested, exchange
from privml.client.connection import Endpoint
from privml.client.gate import Decision
from privml.client.receipts import Receipts, _Ending
from privml.client.ways import Answer, Asked, Headers, Judged
from privml.verify.judgement import Judgement

DOCUMENT = samples.document(keys=KEYS).encode()
COLLATERAL = {"tdx": samples.sim.collateral()}
PROMPT = b'{"prompt":"a secret"}'
ASKED = Asked("POST", "/v1/completions", ((b"content-type", b"application/json"),), PROMPT)
PIECES = (b"data: one\n\n", b"data: two\n\n")
NAME = HONEST.id.hex()


def check(document: bytes, nonce: bytes, spki: bytes) -> Judgement:
    return attested.judge(
        document, samples.EXPECTED, samples.SIMULATED, now=samples.NOW, nonce=nonce, tls_spki_sha256=spki
    )


class FakeGuests:
    """One guest whose answers and receipts a test chooses; `send` and `ask` are those of `client.guests`."""

    def __init__(self, judgement: Judgement) -> None:
        self.judged = Judged(Endpoint("127.0.0.1", 8443), Decision(0.0, judgement))
        self.asked: list[Asked] = []
        self.closed = 0
        self.status = 200
        self.headers: Headers = ((b"content-type", b"text/event-stream"), (b"content-length", b"22"))
        self.named: bytes | None = NAME.encode()
        self.pieces = PIECES
        self.cut = False
        self.trailer = True
        self.by_id: tuple[int, bytes] | None = None
        self.change: Callable[[Receipt], Receipt] = lambda made: made
        self.seal: Callable[[Receipt], bytes] = signed

    def envelope(self) -> bytes:
        """The receipt of the last request, as this guest makes it."""
        asked = next(one for one in reversed(self.asked) if one.method == "POST")
        nonce = next(value for name, value in asked.headers if name == b"privml-nonce")
        made = replace(
            HONEST,
            nonce=bytes.fromhex(nonce.decode()),
            request=body(asked.body),
            response=body(b"".join(self.pieces)),
            complete=not self.cut,
        )
        return self.seal(self.change(made))

    async def send(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        named = () if self.named is None else ((b"privml-receipt-id", self.named),)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in self.pieces:
                yield piece
            if self.cut:
                raise HostError("the attested machine: gone")

        def trailers() -> Headers:
            return ((b"privml-receipt", receipt.trailer_of(self.envelope()).encode()),) if self.trailer else ()

        return Answer(self.judged, self.status, (*self.headers, *named), pieces(), trailers, self._close)

    async def ask(self, judged: Judged, asked: Asked) -> Answer:
        assert judged is self.judged
        self.asked.append(asked)
        status, data = self.by_id or (200, self.envelope())

        async def pieces() -> AsyncIterator[bytes]:
            yield data[:10]
            yield data[10:]

        return Answer(judged, status, (), pieces(), close=self._close)

    def _close(self) -> None:
        self.closed += 1


class Kept:
    """A folder with receipts, and the guest that they are of."""

    def __init__(self, folder: Path, *, keep_bodies: bool = False) -> None:
        self.folder = folder
        self.receipts = Receipts(folder, keep_bodies=keep_bodies)
        watched = self.receipts.watching(check, lambda _: COLLATERAL)
        self.guests = FakeGuests(watched(DOCUMENT, samples.NONCE, samples.SPKI))

    def ask(self, asked: Asked = ASKED) -> tuple[Answer, list[bytes]]:
        """The answer and the pieces that came before its end, or before `HostError`."""

        async def asks() -> tuple[Answer, list[bytes]]:
            answer = await self.receipts.send(self.guests, asked)  # type: ignore[arg-type]
            got = []
            try:
                async for piece in answer.pieces:
                    got.append(piece)
            except HostError as error:
                self.error = error.message
            answer.close()
            return answer, got

        self.error = ""
        return asyncio.run(asks())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def verdict(self) -> list[str]:
        """The codes that a verifier finds in what was kept."""
        made = exchange.decode((self.folder / f"{NAME}.json").read_bytes())
        found = exchange.judge(
            made, samples.EXPECTED, samples.SIMULATED, at=samples.NOW, hashes_only=True, collateral=COLLATERAL["tdx"]
        )
        return [refusal.code for refusal in found.verdict.refusals]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "receipts", keep_bodies=True)


def test_a_good_receipt_is_kept_with_what_vouches_for_it(kept: Kept) -> None:
    answer, got = kept.ask()
    assert (got, kept.error) == (list(PIECES), "")
    assert answer.header(b"x-privml-receipt") == NAME.encode()
    assert answer.header(b"content-length") is None  # so that the end can be held back
    assert kept.names() == [f"{NAME}.json", f"{NAME}.request", f"{NAME}.response"]
    assert (kept.folder / f"{NAME}.request").read_bytes() == PROMPT
    assert (kept.folder / f"{NAME}.response").read_bytes() == b"".join(PIECES)
    for path in kept.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    made = exchange.decode((kept.folder / f"{NAME}.json").read_bytes())
    assert (made.document, made.nonce, made.collateral) == (DOCUMENT, samples.NONCE, COLLATERAL)
    assert kept.verdict() == []
    (listed,) = kept.receipts.last
    assert (listed.name, listed.where, listed.target, listed.problems) == (
        NAME,
        "https://127.0.0.1:8443",
        "/v1/completions",
        (),
    )
    assert len(kept.guests.asked) == 1


def test_the_request_asks_for_a_receipt_with_a_fresh_nonce(kept: Kept) -> None:
    kept.ask()
    kept.ask()
    sent = [dict(asked.headers) for asked in kept.guests.asked]
    for headers in sent:
        assert headers[b"te"] == b"trailers"
        assert len(bytes.fromhex(headers[b"privml-nonce"].decode())) == 32
        assert headers[b"content-type"] == b"application/json"
    assert sent[0][b"privml-nonce"] != sent[1][b"privml-nonce"]
    assert kept.guests.asked[0].body == PROMPT


def test_without_bodies_only_digests_are_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.ask()
    assert kept.names() == [f"{NAME}.json"]
    assert b"secret" not in (tmp_path / f"{NAME}.json").read_bytes()


def test_a_lost_trailer_is_asked_for_by_id(kept: Kept) -> None:
    kept.guests.trailer = False
    assert kept.ask()[1] == list(PIECES)
    assert kept.error == ""
    assert [(asked.method, asked.target) for asked in kept.guests.asked[1:]] == [("GET", f"/v1/receipts/{NAME}")]
    assert kept.verdict() == []
    assert kept.guests.closed == 2


@pytest.mark.parametrize(
    ("by_id", "text"),
    [
        ((404, b"{}"), "missing: no trailer, and status 404 for its id"),
        ((200, b"x" * 20000), "larger than 16384 bytes"),
        ((200, b"{}"), "receipt.payload: missing"),
    ],
)
def test_an_answer_without_a_receipt_is_not_ended(kept: Kept, by_id: tuple[int, bytes], text: str) -> None:
    kept.guests.trailer, kept.guests.by_id = False, by_id
    assert kept.ask()[1] == list(PIECES)
    assert kept.error == f"receipt {NAME}: {text}"
    assert kept.names() == []


ALTERED: dict[str, tuple[Callable[[Receipt], Receipt], str]] = {
    "another answer": (lambda made: replace(made, response=body(b"other")), "response-hash"),
    "another request": (lambda made: replace(made, request=body(b"other")), "request-hash"),
    "another nonce": (lambda made: replace(made, nonce=bytes(32)), "receipt-nonce"),
    "no nonce": (lambda made: replace(made, nonce=None), "receipt-nonce"),
    "another guest": (lambda made: replace(made, origin=replace(ORIGIN, keys_sha256=bytes(32))), "receipt-keys"),
    "another model": (lambda made: replace(made, origin=replace(ORIGIN, model=None)), "receipt-model"),
    "cut": (lambda made: replace(made, complete=False), "receipt-incomplete"),
    "another id": (lambda made: replace(made, id=b"\xff" * 16), "another id than the answer's header"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_answer_whose_receipt_is_refused_is_not_ended(
    kept: Kept, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept.guests.change, code = ALTERED[name]
    with caplog.at_level(logging.WARNING, "privml"):
        assert kept.ask()[1] == list(PIECES)
    assert kept.error == f"receipt {NAME} is refused: {code}"
    assert [each.problems for each in kept.receipts.last] == [(code,)]
    assert caplog.messages == [f"https://127.0.0.1:8443: receipt {NAME} is refused: {code}"]
    assert kept.names() == [f"{NAME}.json", f"{NAME}.request", f"{NAME}.response"]


def test_a_receipt_of_another_key_is_refused(kept: Kept) -> None:
    other = samples_of_another_key()
    kept.guests.seal = lambda made: made.sign(other.sign, KEYS.keys[1].key)
    kept.ask()
    assert kept.error == f"receipt {NAME} is refused: receipt-signature"
    assert kept.verdict() == ["receipt-signature"]


def samples_of_another_key() -> Any:
    from tests.channel_vectors import SIGNER

    return SIGNER


def test_an_answer_that_the_guest_cuts_leaves_a_receipt_that_says_so(kept: Kept) -> None:
    kept.guests.cut, kept.guests.trailer = True, False
    assert kept.ask()[1] == list(PIECES)
    assert kept.error == "the attested machine: gone"
    assert kept.verdict() == ["receipt-incomplete"]
    assert (kept.folder / f"{NAME}.response").read_bytes() == b"".join(PIECES)


def test_a_guest_that_is_gone_leaves_nothing(kept: Kept) -> None:
    kept.guests.cut, kept.guests.trailer, kept.guests.by_id = True, False, (404, b"")
    kept.ask()
    assert kept.error == "the attested machine: gone"
    assert kept.names() == []


def test_refused_guests_evict_no_evidence(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a hostile terminator there can be any number of them, each with keys of its own."""
    monkeypatch.setattr("privml.client.receipts._MAX_BOOTS", 1)
    watched = kept.receipts.watching(check, lambda _: COLLATERAL)
    assert watched(samples.document().encode(), bytes(32), samples.SPKI).keys is None
    assert kept.ask()[1] == list(PIECES)
    assert (kept.error, kept.verdict()) == ("", [])


DONE = b"data: [DONE]\n\n"


def test_a_client_that_leaves_at_the_last_event_has_a_receipt(kept: Kept) -> None:
    """As clients of OpenAI's API do, which do not read up to the last chunk."""
    kept.guests.pieces = (b"data: one\n\n" + DONE,)

    async def leaves() -> None:
        answer = await kept.receipts.send(kept.guests, ASKED)  # type: ignore[arg-type]
        assert await anext(answer.pieces) == b"data: one\n\n"
        assert not (kept.folder / f"{NAME}.json").exists()
        assert await anext(answer.pieces) == DONE
        assert (kept.folder / f"{NAME}.json").exists()
        await answer.pieces.aclose()  # type: ignore[attr-defined]

    asyncio.run(leaves())
    assert kept.names() == [f"{NAME}.json", f"{NAME}.request", f"{NAME}.response"]
    assert kept.verdict() == []


def test_the_last_event_is_not_passed_on_if_the_receipt_is_refused(kept: Kept) -> None:
    kept.guests.pieces = (b"data: one\n\n", DONE)
    kept.guests.change = ALTERED["another answer"][0]
    assert kept.ask()[1] == [b"data: one\n\n"]
    assert kept.error == f"receipt {NAME} is refused: response-hash"


def test_the_last_event_is_found_in_any_pieces_and_nothing_else_waits() -> None:
    tokens = b'data: {"text":"data: [DONE]"}\n\n: data: [DONE]\n\ndata: d\n\n'
    data = tokens + DONE + b"more"
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            ending = _Ending(stream=True)
            shown = b"".join(map(ending.passed, (data[:first], data[first:second], data[second:])))
            assert (shown, ending.held) == (tokens, DONE + b"more")
    ending = _Ending(stream=True)
    for event in (b'data: {"a":1}\n\n', b"data: x\n\n", b"\n"):
        assert (ending.passed(event), ending.held) == (event, b"")
    assert _Ending(stream=False).passed(DONE) == DONE


def test_a_client_that_leaves_leaves_nothing(kept: Kept) -> None:
    async def leaves() -> None:
        answer = await kept.receipts.send(kept.guests, ASKED)  # type: ignore[arg-type]
        assert await anext(answer.pieces) == PIECES[0]
        assert len(kept.names()) == 1
        await answer.pieces.aclose()  # type: ignore[attr-defined]
        answer.close()

    asyncio.run(leaves())
    assert kept.names() == []
    assert kept.guests.closed == 1


def test_only_answers_of_the_engine_have_receipts(kept: Kept) -> None:
    kept.guests.named = None
    for asked in (replace(ASKED, method="GET", target="/v1/models"), replace(ASKED, target="/x/metrics/a")):
        answer, got = kept.ask(asked)
        assert (got, kept.error, answer.headers) == (list(PIECES), "", kept.guests.headers)
        assert kept.guests.asked[-1] == asked
    kept.guests.status = 429
    assert kept.ask()[1] == list(PIECES)  # an error of the guest itself
    assert kept.names() == []


@pytest.mark.parametrize("named", [None, b"", b"../../etc/passwd", b"A" * 32, NAME.encode() + b"0"])
def test_an_answer_that_names_no_receipt_is_withheld(kept: Kept, named: bytes | None) -> None:
    kept.guests.named = named
    with pytest.raises(HostError, match=r"gives no receipts, expected one for each answer \(--receipts\)$"):
        kept.ask()
    assert (kept.names(), kept.guests.closed) == ([], 1)


def test_a_folder_that_cannot_be_written_does_not_end_the_answer(kept: Kept) -> None:
    (kept.folder / f"{NAME}.json").mkdir()
    kept.ask()
    assert kept.error.startswith(f"{kept.folder}: cannot be written: ")
    with pytest.raises(UsageError, match="--receipts"):
        Receipts(kept.folder / "a" / "b")


def test_the_document_that_is_kept_is_that_of_the_guest_that_answered(kept: Kept) -> None:
    """Another boot was judged in between: its document does not vouch for this receipt."""
    watched = kept.receipts.watching(check, lambda _: None)
    other = samples.document(nonce=bytes(32)).encode()
    watched(other, bytes(32), samples.SPKI)
    kept.ask()
    assert exchange.decode((kept.folder / f"{NAME}.json").read_bytes()).document == DOCUMENT
    assert json.loads((kept.folder / f"{NAME}.json").read_bytes())["format"] == "privml-exchange/v1"
    assert RECEIPT.id == HONEST.id
