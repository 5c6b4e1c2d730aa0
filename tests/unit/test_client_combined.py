"""Receipts, callers' tokens and several guests behind a terminator, all at once."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import attestation_samples as samples
import pytest
import terminator_fake
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from receipt_samples import HONEST, ORIGIN, signed
from sealed_guest import X25519, SealedGuest
from terminator_fake import Front
from test_client_behind import check, terminator
from tests.receipts import KEY, body
from tests.unit.proxy_thread import proxied

from privml.channel import receipt
from privml.channel.bhttp import Request
from privml.channel.fields import Fields
from privml.channel.token import Token, guest_of
from privml.client import exchange
from privml.client.behind import guests_behind
from privml.client.receipts import Receipts
from privml.client.tokens import GuestTokens
from privml.evidence import document
from privml.evidence.sections import RECEIPT_KEY, Key, Keys

COLLATERAL = samples.sim.collateral()
PIECES = [b"data: one\n\n", b"data: two\n\n"]
PROMPT = b'{"prompt":"a secret"}'


class Signing:
    """What guests with a receipt key answer: prompts without a trailer for the receipt, and receipts by their id."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.made: dict[str, tuple[SealedGuest, bytes]] = {}
        front.pieces, front.fields = self.pieces, self.fields

    def pieces(self, request: Request) -> list[bytes]:
        guest, _ = self.front.opened[-1]
        if request.line.method == "GET":
            maker, envelope = self.made[request.line.path.removeprefix(receipt.PATH)]
            return [envelope if maker is guest else b"{}"]
        name = self.fields(request)[0][1]
        stated = replace(
            HONEST,
            id=bytes.fromhex(name),
            origin=replace(ORIGIN, keys_sha256=guest.keys.sha256),
            nonce=bytes.fromhex(dict(request.fields)[receipt.NONCE_FIELD]),
            request=body(request.content),
            response=body(b"".join(PIECES)),
            complete=not self.front.cut,
            channel="ohttp",
        )
        self.made[name] = guest, signed(stated)
        return PIECES

    def fields(self, request: Request) -> Fields:
        nonce = dict(request.fields).get(receipt.NONCE_FIELD)
        return () if nonce is None else ((receipt.ID_FIELD, nonce[:32]),)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    guests = [SealedGuest([X25519]) for _ in range(2)]
    for guest in guests:
        guest.keys = Keys((guest.keys.keys[0], Key(*RECEIPT_KEY, KEY), *guest.keys.keys[1:]))
    with terminator_fake.running(Front(tmp_path, *guests)) as made:
        yield made


@pytest.mark.parametrize("cut", [False, True])
def test_tokens_and_receipts_are_of_the_guest_that_answers(front: Front, tmp_path: Path, cut: bool) -> None:
    signing, folder = Signing(front), tmp_path / "receipts"
    tokens = [Token(guest.keys.sha256, "a", 5).sign(Ed25519PrivateKey.generate().sign) for guest in front.guests]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    (tmp_path / "tokens").chmod(0o600)
    front.cut = cut
    receipts = Receipts(folder)
    guests = guests_behind(terminator(front), receipts.watching(check, lambda _: {"tdx": COLLATERAL}))
    guests.present = GuestTokens(tmp_path / "tokens").present
    with proxied(guests, receipts=receipts) as port:
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v1/completions", PROMPT, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200
            if cut:
                with pytest.raises(http.client.IncompleteRead):
                    answer.read()
            else:
                assert answer.read() == b"".join(PIECES)
            connection.close()
    assert {maker.keys.sha256 for maker, _ in signing.made.values()} == {guest.keys.sha256 for guest in front.guests}
    for name, (maker, _) in signing.made.items():
        kept = exchange.decode((folder / f"{name}.json").read_bytes())
        assert Keys.decode(document.parse(kept.document).keys).sha256 == maker.keys.sha256
        found = exchange.judge(
            kept, samples.EXPECTED, samples.SIMULATED, at=samples.NOW, hashes_only=True, collateral=COLLATERAL
        )
        assert [one.code for one in found.verdict.refusals] == (["receipt-incomplete"] if cut else [])
    assert [request.line.method for _, request in front.opened] == ["POST", "GET"] * 2
    for guest, request in front.opened:
        (shown,) = (value for key, value in request.fields if key == "authorization")
        assert guest_of(shown.removeprefix("Bearer ")) == guest.keys.sha256
    outside = b"".join(path.encode() + data for _, path, data in front.seen)
    assert not any(token.encode() in outside for token in tokens)
    assert b"secret" not in outside


def test_a_client_that_leaves_ends_the_sealed_request_and_leaves_no_file(front: Front, tmp_path: Path) -> None:
    signing, folder = Signing(front), tmp_path / "receipts"
    front.pieces = lambda request: [bytes(32768)] * 200 if b"long" in request.content else signing.pieces(request)
    receipts = Receipts(folder, keep_bodies=True)
    guests = guests_behind(terminator(front), receipts.watching(check, lambda _: {"tdx": COLLATERAL}))
    with proxied(guests, receipts=receipts) as port:
        for prompt in (b'{"prompt":"long"}', PROMPT):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v1/completions", prompt, {"content-type": "application/json"})
            answer = connection.getresponse()
            if prompt is PROMPT:
                assert answer.read() == b"".join(PIECES)
            else:
                assert answer.read(10) == bytes(10)
                assert [path.name[0] for path in folder.iterdir()] == ["."], "the answer that is arriving"
            answer.close()
            connection.close()
            end = time.monotonic() + 10
            while guests.all[0].busy and time.monotonic() < end:
                time.sleep(0.01)
        assert guests.all[0].busy == 0
    (name,) = signing.made
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json", f"{name}.request", f"{name}.response"]
