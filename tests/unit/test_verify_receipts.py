"""Receipts against a judged document: each part that differs is refused by its own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import attestation_samples as samples
import pytest
from receipt_samples import HONEST, KEYS, ORIGIN, exchange, signed
from tests import channel_vectors
from tests.receipts import KEY, REQUEST, RESPONSE, SIGNER, body

from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import b64, canonical, loads
from privml.channel.receipt import Model, Receipt
from privml.client.exchange import Exchange, Judged, decode, judge
from privml.evidence.sections import RECEIPT_KEY, Key, Keys
from privml.verify.receipts import receipt
from privml.verify.verdict import Binding, Outcome

CODES = frozenset(receipt.codes)


def judged(made: Exchange, **changes: Any) -> Judged:
    given: dict[str, Any] = {"at": samples.NOW, "request": body(REQUEST), "response": body(RESPONSE)}
    return judge(made, samples.EXPECTED, samples.SIMULATED, **{**given, **changes})


def codes(found: Judged) -> list[str]:
    return [refusal.code for refusal in found.verdict.refusals]


def of(**changes: Any) -> Exchange:
    return exchange(replace(HONEST, **changes))


def origin(**changes: Any) -> Exchange:
    return of(origin=replace(ORIGIN, **changes))


def test_an_honest_exchange_is_accepted_with_what_it_says() -> None:
    for made in (exchange(), decode(exchange().encode()), of(nonce=None)):
        found = judged(made)
        assert (codes(found), found.verdict.outcome) == ([], Outcome.ACCEPTED_SIMULATED)
        assert found.receipt is not None
        assert found.receipt.origin.model == Model("smollm2", b"\x22" * 32)


def test_the_verdict_rests_on_the_receipt_key_and_opens_no_connection() -> None:
    found = judged(exchange())
    keys = found.judgement.keys
    assert found.verdict.binding is found.judgement.verdict.binding is Binding.RECEIPT_KEY
    assert keys is not None
    with pytest.raises(Refused, match="receipt-key: the verdict rests on the receipt key, expected one on the TLS"):
        keys.tls_spki_sha256  # noqa: B018 - a property


def by_channel_key(name: bytes) -> Callable[[], Exchange]:
    """A receipt signed by the guest's channel key, under the name of the key ``name``."""
    return lambda: exchange(receipt=HONEST.sign(channel_vectors.SIGNER.sign, name))


CASES: dict[str, tuple[Callable[[], Exchange], dict[str, Any], list[str]]] = {
    "the channel key, under the receipt key's name": (by_channel_key(KEY), {}, ["receipt-signature"]),
    "the channel key": (by_channel_key(channel_vectors.CHANNEL_KEY), {}, ["receipt-signature"]),
    "a document without a receipt key": (
        lambda: exchange(document=samples.document().encode()), {}, ["receipt-signature"],
    ),
    "another boot's document": (
        lambda: exchange(document=samples.document(keys=Keys(KEYS.keys[1:])).encode()), {}, ["receipt-keys"],
    ),
    "another configuration": (lambda: origin(config_sha256=bytes(32)), {}, ["receipt-model"]),
    "another model": (lambda: origin(model=Model("smollm3", b"\x22" * 32)), {}, ["receipt-model"]),
    "another volume": (lambda: origin(model=Model("smollm2", bytes(32))), {}, ["receipt-model"]),
    "no model": (lambda: origin(model=None), {}, ["receipt-model"]),
    "another engine": (lambda: origin(engine=replace(ORIGIN.engine, name="vllm")), {}, ["receipt-model"]),
    "another command line": (
        lambda: origin(engine=replace(ORIGIN.engine, argv_sha256=bytes(32))), {}, ["receipt-model"],
    ),
    "another variant": (lambda: origin(variant="development"), {}, ["receipt-model"]),
    "a nonce that was sent and is not there": (
        lambda: replace(exchange(replace(HONEST, nonce=None)), request_nonce=b"\x5a" * 32), {}, ["receipt-nonce"],
    ),
    "a nonce that was not sent": (lambda: replace(exchange(), request_nonce=None), {}, ["receipt-nonce"]),
    "the verifier's nonce": (exchange, {"request_nonce": bytes(32)}, ["receipt-nonce"]),
    "another request": (exchange, {"request": body(REQUEST + b" ")}, ["request-hash"]),
    "another answer": (exchange, {"response": body(RESPONSE[:-1])}, ["response-hash"]),
    "no bodies": (exchange, {"request": None, "response": None}, ["request-hash", "response-hash"]),
    "a cut answer": (lambda: of(complete=False), {}, ["receipt-incomplete"]),
    "everything": (
        lambda: of(origin=replace(ORIGIN, keys_sha256=bytes(32), variant="development"), complete=False),
        {"request": body(b""), "response": body(b""), "request_nonce": bytes(32)},
        [
            "receipt-keys", "receipt-model", "receipt-nonce", "request-hash", "response-hash", "receipt-incomplete",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_part_that_differs_has_its_own_refusal(name: str) -> None:
    made, changes, wanted = CASES[name]
    found = judged(made(), **changes)
    assert codes(found) == wanted
    assert found.verdict.outcome is Outcome.REFUSED
    assert (found.receipt is None) == ("receipt-signature" in wanted)


def test_every_code_is_given_by_some_case() -> None:
    assert {code for _, _, wanted in CASES.values() for code in wanted} == CODES


def test_a_refused_document_is_refused_with_its_reasons_too() -> None:
    made = exchange(nonce=bytes(32))
    assert codes(judged(made, request=body(b""))) == ["nonce", "request-hash"]


def test_without_bodies_hashes_are_accepted_only_if_asked_for() -> None:
    assert codes(judged(exchange(), request=None, response=None, hashes_only=True)) == []
    assert codes(judged(exchange(), request=None, hashes_only=True, response=body(b""))) == ["response-hash"]


def test_a_guest_with_several_models_may_name_none() -> None:
    events = (*samples.AGENT_EVENTS[:2], samples.agent.model_event("other", "33" * 32), *samples.AGENT_EVENTS[2:])
    document = samples.document(keys=KEYS, agent_events=events).encode()
    for stated, refused in ((None, False), (Model("smollm2", b"\x22" * 32), True)):
        made = exchange(replace(HONEST, origin=replace(ORIGIN, model=stated)), document=document)
        assert ("receipt-model" in codes(judged(made))) == refused


def test_every_byte_of_the_payload_counts() -> None:
    """A flipped bit anywhere in the payload, under the old signature, is a refusal."""
    value = loads(signed(), what="receipt")
    payload = HONEST.encode()
    for at in range(0, len(payload), 7):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        made = exchange(receipt=canonical({**value, "payload": b64(changed)}))
        assert codes(judged(made)) == ["receipt-signature"]


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "privml-exchange/v2"},
        {"request_nonce": "5A" * 32},
        {"request_nonce": "5a"},
        {"receipt": {}},
        {"receipt": None},
        {"document": "AA="},
        {"nonce": ""},
        {"judged_at": -1},
        {"judged_at": 2**40},
        {"collateral": []},
        {"more": 1},
    ],
    ids=str,
)
def test_a_file_that_is_not_exactly_v1_is_malformed(changed: dict[str, object]) -> None:
    value = loads(exchange().encode(), what="exchange")
    assert decode(canonical(value)) == exchange()
    with pytest.raises(EvidenceError):
        decode(canonical({**value, **changed}))


def test_a_malformed_receipt_or_document_is_malformed() -> None:
    unsound = replace(HONEST, path="no path")
    for made in (exchange(document=b"{}"), exchange(receipt=signed(unsound))):
        with pytest.raises(EvidenceError):
            judged(made)


def test_the_key_of_a_receipt_is_the_one_for_receipts() -> None:
    """A guest whose keys section has the same bytes under another use signs no receipts."""
    other = Keys((Key("other", "ed25519", KEY), *(key for key in KEYS.keys if key.use == "tls")))
    assert KEYS.find(*RECEIPT_KEY) == KEY
    made = exchange(document=samples.document(keys=other).encode())
    assert codes(judged(made)) == ["receipt-signature"]


def test_a_receipt_can_be_read_without_its_key() -> None:
    assert Receipt.decode(HONEST.encode()) == HONEST
    assert SIGNER.public_key().public_bytes_raw() == KEY
