"""DSSE envelopes: the specification's example, a canonical encoding, and refusal of everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from privml.base.dsse import MAX_SIGNATURES, Envelope, Signature, decode, pae
from privml.base.errors import EvidenceError

# protocol.md of DSSE v1.0.2, "Test vectors". Its signature is the raw r and s of ECDSA P-256, not DER.
KIND = "http://example.com/HelloWorld"
SIG = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
EXAMPLE = {"payload": "aGVsbG8gd29ybGQ=", "payloadType": KIND, "signatures": [{"sig": SIG}]}
KEY = ec.EllipticCurvePublicNumbers(
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
    ec.SECP256R1(),
).public_key()


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def test_the_encoding_of_the_specification_s_example() -> None:
    assert pae(KIND, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_count_bytes_not_characters() -> None:
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_the_example_s_signature_covers_the_pae() -> None:
    envelope = decode(text(EXAMPLE))
    sig = envelope.signatures[0].sig
    der = encode_dss_signature(int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big"))
    KEY.verify(der, envelope.signed, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        KEY.verify(der, envelope.payload, ec.ECDSA(SHA256()))


def test_bytes_cannot_move_between_type_and_payload() -> None:
    assert pae("a", b"b 1 c") != pae("a 1 b", b"c")
    assert pae("", b"x") != pae("x", b"")


@given(
    st.text(min_size=1, max_size=60),
    st.binary(max_size=200),
    st.lists(
        st.builds(Signature, st.binary(max_size=80), st.sampled_from(["", "k", "403710f3"])), min_size=1, max_size=4
    ),
)
def test_an_envelope_round_trips(kind: str, payload: bytes, signatures: list[Signature]) -> None:
    envelope = Envelope(kind, payload, tuple(signatures))
    assert decode(envelope.encode()) == envelope
    assert decode(envelope.encode()).encode() == envelope.encode()


def test_an_empty_keyid_equals_an_omitted_one() -> None:
    explicit = {**EXAMPLE, "signatures": [{"keyid": "", "sig": SIG}]}
    assert decode(text(explicit)) == decode(text(EXAMPLE))
    assert b"keyid" not in decode(text(explicit)).encode()


def changed(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in {**EXAMPLE, **members}.items() if value is not ...}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "envelope: an array, expected an object"),
        (changed(payload=...), "envelope.payload: missing"),
        (changed(payloadType=...), "envelope.payloadType: missing"),
        (changed(signatures=...), "envelope.signatures: missing"),
        (changed(more=1), "envelope.more: unknown field"),
        (changed(payload=1), "envelope.payload: int, expected a base64 string"),
        (changed(payload="aGVsbG8gd29ybGQ"), "envelope.payload: not base64"),
        (changed(payload="aGVsbG8gd29ybGR="), "envelope.payload: not the canonical base64"),
        (changed(payload="_-8="), "envelope.payload: not base64"),
        (changed(payloadType=None), "envelope.payloadType: null, expected a string"),
        (changed(payloadType=""), "envelope.payloadType: empty"),
        (changed(payloadType="x" * 257), "envelope.payloadType: 257 characters"),
        (changed(signatures=[]), "envelope.signatures: no items, expected 1 to 64"),
        (changed(signatures={}), "envelope.signatures: an object, expected an array"),
        (changed(signatures=[{"sig": SIG}] * (MAX_SIGNATURES + 1)), "envelope.signatures: 65 items"),
        (changed(signatures=[{"sig": SIG}, {}]), r"envelope.signatures\[1\].sig: missing"),
        (changed(signatures=["x"]), r"envelope.signatures\[0\]: a string, expected an object"),
        (changed(signatures=[{"sig": SIG, "cert": ""}]), r"envelope.signatures\[0\].cert: unknown field"),
        (changed(signatures=[{"sig": SIG, "keyid": 1}]), r"envelope.signatures\[0\].keyid: an integer"),
        (changed(signatures=[{"sig": SIG, "keyid": "k" * 257}]), r"envelope.signatures\[0\].keyid: 257 characters"),
        (changed(signatures=[{"sig": "A" * 40_000}]), r"envelope.signatures\[0\].sig: 40000 characters"),
    ],
)
def test_malformed_envelopes_are_refused_with_the_member_s_name(value: object, message: str) -> None:
    with pytest.raises(EvidenceError, match=f"^{message}"):
        decode(text(value))


def test_a_member_that_is_given_twice_is_refused() -> None:
    twice = text(EXAMPLE).replace(b'"payload":', b'"payload": "", "payload":', 1)
    with pytest.raises(EvidenceError, match="key `payload` is given twice"):
        decode(twice)
