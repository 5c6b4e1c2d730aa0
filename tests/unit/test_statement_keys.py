"""Keys, roles and DSSE envelopes: one key never counts twice, and only verified bytes become a payload."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from published_fake import EVERYBODY, role, signer
from securesystemslib import dsse as other
from securesystemslib.signer import CryptoSigner, SSlibKey

from privml.base.dsse import IN_TOTO, Envelope, Signature, decode
from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields
from privml.publish.signing import Signing
from privml.publish.version import sign
from privml.statement import tufkeys
from privml.statement.keys import PublicKey, Role
from privml.statement.signed import verify
from privml.statement.untrusted import UntrustedError

PAYLOAD = b'{"a":1}'
TWO_OF_THREE = role(2, "alice", "p256-carol", "p384-dave")


def envelope(*names: str, payload: bytes = PAYLOAD, kind: str = IN_TOTO) -> Envelope:
    unsigned = Envelope(kind, payload, ())
    return dataclasses.replace(
        unsigned,
        signatures=tuple(Signature(signer(name).sign(unsigned.signed), signer(name).public.keyid) for name in names),
    )


def codes(given: Envelope, by: Role = TWO_OF_THREE) -> str:
    with pytest.raises(UntrustedError) as caught:
        verify(given, by, what="it")
    assert caught.value.exit_code == 8
    return caught.value.code


@pytest.mark.parametrize(
    "names", [("alice", "p256-carol"), ("p384-dave", "alice", "p256-carol"), ("stranger", "alice", "p384-dave")]
)
def test_enough_signatures_of_the_role_give_the_payload_and_who_signed(names: tuple[str, ...]) -> None:
    found = verify(envelope(*names), TWO_OF_THREE, what="it")
    assert found.payload == PAYLOAD
    assert found.signers == tuple(signer(name).public.keyid for name in names if name != "stranger")


@pytest.mark.parametrize("names", [(), ("alice",), ("alice", "stranger"), ("stranger", "bob", "online")])
def test_too_few_signatures_of_the_role_are_refused(names: tuple[str, ...]) -> None:
    assert codes(envelope(*names)) == "statement-signatures"


def test_another_payload_type_is_refused_although_it_is_signed() -> None:
    assert codes(envelope("alice", "p256-carol", kind="text/plain")) == "statement-signatures"


def test_one_key_that_signs_twice_is_malformed() -> None:
    """ECDSA gives another signature each time."""
    twice = envelope("p256-carol", "p256-carol")
    assert twice.signatures[0] != twice.signatures[1]
    with pytest.raises(EvidenceError, match="signs twice, expected each key once"):
        verify(twice, TWO_OF_THREE, what="it")


def test_a_key_in_a_role_twice_is_malformed() -> None:
    with pytest.raises(EvidenceError, match="is listed twice, expected different keys"):
        role(2, "alice", "alice")


@pytest.mark.parametrize(("threshold", "names"), [(0, ("alice",)), (2, ("alice",)), (1, ())])
def test_a_threshold_that_cannot_be_met_or_is_none_is_malformed(threshold: int, names: tuple[str, ...]) -> None:
    with pytest.raises(EvidenceError, match=f"threshold {threshold} of {len(names)} keys"):
        role(threshold, *names)


def test_a_bad_signature_in_the_name_of_a_key_of_the_role_is_malformed() -> None:
    good = envelope("alice", "p256-carol", "p384-dave")
    first = Signature(good.signatures[1].sig, good.signatures[0].keyid)
    with pytest.raises(EvidenceError, match="does not verify"):
        verify(dataclasses.replace(good, signatures=(first, *good.signatures[1:])), TWO_OF_THREE, what="it")


def test_signatures_cover_type_and_payload() -> None:
    good = envelope("alice", "p256-carol")
    for changed in (dataclasses.replace(good, payload=PAYLOAD + b" "), dataclasses.replace(good, payload_type="x")):
        with pytest.raises(EvidenceError if changed.payload_type == IN_TOTO else UntrustedError):
            verify(changed, TWO_OF_THREE, what="it")
    assert not signer("alice").public.verifies(good.signatures[0].sig, PAYLOAD)


def test_a_signed_envelope_keeps_good_signatures_and_drops_those_of_others() -> None:
    one = envelope("alice", "stranger")
    both = sign(one, TWO_OF_THREE, Signing([signer("p256-carol"), signer("online")]), "it")
    assert {each.keyid for each in both.signatures} == {signer(name).public.keyid for name in ("alice", "p256-carol")}
    assert verify(decode(both.encode()), TWO_OF_THREE, what="it").payload == PAYLOAD


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def compressed() -> bytes:
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (compressed, "not the canonical encoding"),
        (lambda: signer("alice").public.spki + b"\0", "public key: "),
        (lambda: spki(rsa.generate_private_key(65537, 2048).public_key()), "its kind is not one of ed25519, ecdsa"),
        (lambda: spki(ec.derive_private_key(7, ec.SECP521R1()).public_key()), "its kind is not one of"),
        (lambda: b"", "not a DER SubjectPublicKeyInfo"),
        (lambda: bytes(2000), "2000 bytes, expected at most"),
    ],
)
def test_a_key_of_another_kind_or_encoding_is_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        PublicKey(make())


@pytest.mark.parametrize("name", EVERYBODY)
def test_the_id_of_a_key_is_the_digest_of_its_spki_and_tuf_s_form_round_trips(name: str) -> None:
    key = signer(name).public
    assert key.keyid == hashlib.sha256(key.spki).hexdigest()
    assert tufkeys.keys_from(Fields({key.keyid: tufkeys.key_to_dict(key)}, "keys")) == {key.keyid: key}
    with pytest.raises(EvidenceError, match="expected its key's SHA-256"):
        tufkeys.keys_from(Fields({"00" * 32: tufkeys.key_to_dict(key)}, "keys"))


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": "ed25519ph"},
        {"keytype": "ecdsa"},
        {"keytype": "rsa"},
        {"keyval": {"public": "00"}},
        {"keyval": {"public": "00" * 32, "private": ""}},
        {"x": 1},
    ],
)
def test_a_key_that_is_not_of_the_kind_it_says_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(EvidenceError):
        tufkeys.key_from({**tufkeys.key_to_dict(signer("alice").public), **change}, "key")
    written = tufkeys.key_to_dict(signer("p256-carol").public)
    pem = written["keyval"]["public"]
    for text in (pem + "\n", pem.replace("\n", "\r\n"), " " + pem, pem.replace("PUBLIC", "public")):
        with pytest.raises(EvidenceError):
            tufkeys.key_from({**written, "keyval": {"public": text}}, "key")


@pytest.mark.parametrize("name", ["alice", "p256-carol", "p384-dave"])
def test_securesystemslib_verifies_our_envelopes_and_we_verify_theirs(name: str) -> None:
    ours = signer(name)
    key = SSlibKey.from_dict(ours.public.keyid, tufkeys.key_to_dict(ours.public))
    theirs = other.Envelope.from_dict(json.loads(envelope(name).encode()))
    assert theirs.verify([key], 1) == {ours.public.keyid: key}
    made = other.Envelope(PAYLOAD, IN_TOTO, {})
    made.sign(CryptoSigner(ours._key, key))
    assert verify(decode(json.dumps(made.to_dict()).encode()), role(1, name), what="it").payload == PAYLOAD
