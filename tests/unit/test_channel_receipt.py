"""Receipts: one encoding, one signature, and nothing that can be changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tests import channel_vectors
from tests.receipts import KEY, ORIGIN, RECEIPT, REQUEST, RESPONSE, SIGNED, SIGNER

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import canonical
from privml.channel import receipt
from privml.channel.receipt import OHTTP, PAYLOAD_TYPE, Receipt, verify


def test_the_payload_is_the_documented_json() -> None:
    assert json.loads(RECEIPT.encode()) == {
        "format": "privml-receipt/v1",
        "id": "000102030405060708090a0b0c0d0e0f",
        "seq": 7,
        "keys_sha256": bytes(range(32)).hex(),
        "config_sha256": "cc" * 32,
        "variant": "production",
        "model": {"name": "tiny", "root_hash": "aa" * 32},
        "engine": {"name": "llama-server", "argv_sha256": "ee" * 32},
        "request": {
            "method": "POST",
            "path": "/v1/completions",
            "sha256": RECEIPT.request.sha256.hex(),
            "size": len(REQUEST),
        },
        "forwarded_sha256": RECEIPT.forwarded_sha256.hex(),
        "response": {
            "status": 200,
            "content_type": "application/json",
            "sha256": RECEIPT.response.sha256.hex(),
            "size": len(RESPONSE),
            "complete": True,
        },
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
        "nonce": "5a" * 32,
        "channel": "tls",
        "enc_sha256": None,
    }
    envelope = json.loads(SIGNED)
    assert (envelope["payloadType"], envelope["signatures"][0]["keyid"]) == (PAYLOAD_TYPE, KEY.hex())
    # Every byte of it, which Ed25519 makes the same each time.
    assert hashlib.sha256(SIGNED).hexdigest() == "d04c18ffd726fa2aa8abcfe8365ee6d64e8a37ec99352196ba5ebf00bd930f05"


@pytest.mark.parametrize(
    "made",
    [
        RECEIPT,
        replace(RECEIPT, origin=replace(ORIGIN, model=None), usage=None, nonce=None),
        replace(RECEIPT, complete=False, content_type="", channel=OHTTP, enc_sha256=bytes(32)),
    ],
)
def test_a_signed_receipt_is_read_with_the_key_that_signed_it(made: Receipt) -> None:
    envelope = made.sign(SIGNER.sign, KEY)
    assert verify(envelope, key=KEY) == made
    assert receipt.of_trailer(receipt.trailer_of(envelope)) == envelope
    assert len(envelope) < 2000


def test_every_change_of_a_signed_receipt_is_refused() -> None:
    for changed in channel_vectors.changes(SIGNED):
        with pytest.raises((EvidenceError, Refused)):
            verify(changed, key=KEY)


def test_every_byte_of_the_payload_is_signed() -> None:
    envelope = dsse.decode(SIGNED)
    payload = envelope.payload
    for at in range(len(payload)):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        with pytest.raises(Refused, match=r"^receipt: not signed by the attested receipt key$"):
            verify(replace(envelope, payload=changed).encode(), key=KEY)


def test_every_change_of_a_payload_is_refused_or_another_receipt() -> None:
    for changed in channel_vectors.changes(RECEIPT.encode()):
        try:
            other = Receipt.decode(changed)
        except EvidenceError:
            continue
        assert other != RECEIPT
        assert other.encode() == changed


def test_a_receipt_of_another_key_role_or_type_is_refused() -> None:
    wrong = r"^receipt: not signed by the attested receipt key$"
    for key in (channel_vectors.CHANNEL_KEY, bytes(32), bytes(31)):
        with pytest.raises(Refused, match=wrong):
            verify(SIGNED, key=key)
    by_channel = RECEIPT.sign(channel_vectors.SIGNER.sign, KEY)  # another key of the same guest, under its name
    with pytest.raises(Refused, match=wrong):
        verify(by_channel, key=KEY)
    payload = RECEIPT.encode()
    signature = dsse.Signature(SIGNER.sign(dsse.pae(PAYLOAD_TYPE, payload)), KEY.hex())
    for envelope in (
        dsse.Envelope("application/vnd.privml.channel+json", payload, (signature,)),
        dsse.Envelope(PAYLOAD_TYPE, payload, (signature, signature)),
        dsse.Envelope(PAYLOAD_TYPE, payload, (replace(signature, keyid=""),)),
    ):
        with pytest.raises(EvidenceError, match=r"expected type .* and one signature with keyid$"):
            verify(envelope.encode(), key=KEY)
    with pytest.raises(EvidenceError, match=r"not canonical JSON$"):
        verify(SIGNED + b"\n", key=KEY)
    with pytest.raises(EvidenceError, match=r"expected at most 16384$"):
        verify(b" " * 16385, key=KEY)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "privml-receipt/v2"},
        {"id": "00"},
        {"seq": 0},
        {"seq": True},
        {"keys_sha256": "00"},
        {"variant": "Production"},
        {"model": {"name": "", "root_hash": "aa" * 32}},
        {"model": {"name": "a\n", "root_hash": "aa" * 32}},
        {"model": {"name": "tiny", "root_hash": "aa" * 32, "more": 1}},
        {"engine": None},
        {"usage": {"prompt_tokens": 1}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": -1}},
        {"nonce": ""},
        {"nonce": "5A" * 32},
        {"channel": "none"},
        {"enc_sha256": "00" * 32},
        {"more": 1},
    ],
    ids=str,
)
def test_a_receipt_that_is_not_exactly_v1_is_refused(changed: dict[str, object]) -> None:
    value = json.loads(RECEIPT.encode())
    with pytest.raises(EvidenceError):
        Receipt.decode(canonical({**value, **changed}))


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("request", {"method": "post"}),
        ("request", {"path": "v1"}),
        ("request", {"path": "/v1/\x7f"}),
        ("request", {"path": "/" + "a" * 256}),
        ("request", {"size": -1}),
        ("response", {"status": 199}),
        ("response", {"content_type": " a"}),
        ("response", {"content_type": "a" * 129}),
        ("response", {"complete": 1}),
    ],
)
def test_parts_of_a_receipt_have_bounds(part: str, changed: dict[str, object]) -> None:
    value = json.loads(RECEIPT.encode())
    with pytest.raises(EvidenceError, match=rf"^receipt\.{part}\.{next(iter(changed))}: "):
        Receipt.decode(canonical({**value, part: {**value[part], **changed}}))


def test_a_content_type_that_cannot_be_stated_is_left_out() -> None:
    assert receipt.shown_type("text/event-stream; charset=utf-8") == "text/event-stream; charset=utf-8"
    for odd in ("a\tb", "a" * 129, "é", " a", "a\n"):
        assert receipt.shown_type(odd) == ""


def test_a_trailer_is_bounded_base64() -> None:
    for odd in ("====", "Zh", "A" * 30000, "Zg== "):
        with pytest.raises(EvidenceError, match=r"^receipt: "):
            receipt.of_trailer(odd)
