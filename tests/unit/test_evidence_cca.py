"""Tokens of Arm CCA: every claim is read or refused, and each signature and the binding are checked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import cca_samples as samples
import pytest
from cca_samples import (
    ABSENT,
    CHALLENGE,
    OTHER_KEY,
    PLATFORM_KEY,
    REALM_KEY,
    REMS,
    RIM,
    Sample,
    component,
    point,
    sign1,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.published import read

from privml.base.errors import EvidenceError
from privml.base.strictcbor import Tag, decode, encode
from privml.evidence.cca import signature, token
from privml.evidence.cca.token import TokenChecks
from privml.verify import cca
from privml.verify.bare import Origin

PUBLIC = PLATFORM_KEY.public_key()
HONEST = Sample()
VECTOR = read("attestation/veraison_ccatoken/cca_token.cbor")
GOOD = TokenChecks(realm=True, bound=True, platform=True)


def cose_key(key: ec.EllipticCurvePrivateKey, **changes: Any) -> bytes:
    whole = point(key)
    made: dict[int, Any] = {1: 2, -1: 2, -2: whole[1:49], -3: whole[49:]}
    signs = {"k": 1, "m": -1}
    return encode({**made, **{signs[name[0]] * int(name[1:]): value for name, value in changes.items()}})


def checked(sample: Sample, key: ec.EllipticCurvePublicKey | None = PUBLIC) -> TokenChecks:
    return signature.check(token.parse(sample.token()), key)


def test_the_claims_of_a_token_that_tf_rmm_made() -> None:
    found = token.parse(VECTOR)
    assert found.realm.registers == {name: bytes(32) for name in token.REGISTERS}
    assert (found.realm.challenge, found.realm.profile, found.realm.hash) == (b"\xab" * 64, "", "sha-256")
    assert found.realm.personalization.startswith(b"The quick brown fox")
    assert (found.platform.profile, found.platform.lifecycle) == ("http://arm.com/CCA-SSD/1.0.0", 0x3003)
    assert [each.type for each in found.platform.components] == ["BL", "M1", "M2", "M3"]
    assert (found.platform.others, found.realm.others) == ({}, {})


@pytest.mark.parametrize("tag", [399, 907])
def test_an_honest_token_verifies(tag: int) -> None:
    made = dataclasses.replace(HONEST, tag=tag)
    assert checked(made) == GOOD
    assert checked(made, None) == TokenChecks(realm=True, bound=True, platform=None)
    found = token.parse(made.token()).realm
    assert (found.rim, found.rems, found.challenge) == (RIM, REMS, CHALLENGE)


def test_a_realm_key_may_be_a_cose_key() -> None:
    realm = {265: "tag:arm.com,2023:realm#1.0.0", 44237: cose_key(REALM_KEY)}
    made = dataclasses.replace(HONEST, realm=realm)
    assert checked(made) == GOOD
    assert token.parse(made.token()).realm.point == point(REALM_KEY)
    assert checked(dataclasses.replace(HONEST, realm={**realm, 44237: cose_key(REALM_KEY, k3=-35)})) == GOOD


@pytest.mark.parametrize("name", ["sha-384", "sha-512"])
def test_other_digests(name: str) -> None:
    digest = hashlib.new(name.replace("-", ""), b"x").digest()
    realm = {44236: name, 44240: name, 44238: digest, 44239: (digest,) * 4}
    assert checked(dataclasses.replace(HONEST, realm=realm)) == GOOD


def test_claims_of_later_profiles_are_kept_by_number() -> None:
    made = dataclasses.replace(HONEST, realm={44242: "private"}, platform={2394: 1})
    found = token.parse(made.token())
    assert (found.realm.others, found.platform.others) == ({44242: "private"}, {2394: 1})


# -- what does not hold ----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Sample, ec.EllipticCurvePublicKey | None]] = {
    "cca-realm-signature": (dataclasses.replace(HONEST, realm_key=OTHER_KEY), PUBLIC),
    "cca-binding": (dataclasses.replace(HONEST, platform={10: bytes(32)}), PUBLIC),
    "cca-platform-signature": (HONEST, OTHER_KEY.public_key()),
    "cca-platform-key": (HONEST, None),
    "cca-lifecycle": (dataclasses.replace(HONEST, platform={2395: 0x5000}), PUBLIC),
}


@pytest.mark.parametrize("code", WRONG)
def test_each_objection_has_its_own_code(code: str) -> None:
    sample, key = WRONG[code]
    case = cca.Case(token.parse(sample.token()), checked(sample, key))
    finding = cca.judge(case, ())
    assert [each.code for each in finding.refusals] == [code]
    assert finding.exit_code == 8
    origins = {"cca-platform-key": Origin.UNPROVEN, "cca-lifecycle": Origin.NAMED_KEY}
    assert finding.origin is origins.get(code, Origin.REFUSED)


def test_every_code_is_given_by_some_case() -> None:
    assert set(WRONG) == set(cca.CODES)
    case = cca.Case(token.parse(HONEST.token()), GOOD)
    assert (cca.judge(case, ()).refusals, cca.judge(case, ()).origin) == ((), Origin.NAMED_KEY)


def test_a_realm_token_of_another_platform_is_not_bound() -> None:
    """Both tokens are genuine, each for itself."""
    other = dataclasses.replace(HONEST, realm={44237: point(OTHER_KEY)}, realm_key=OTHER_KEY)
    parts = decode(HONEST.token()).value
    mixed = encode(Tag(399, {44234: parts[44234], 44241: decode(other.token()).value[44241]}))
    found = signature.check(token.parse(mixed), PUBLIC)
    assert found == TokenChecks(realm=True, bound=False, platform=True)


@pytest.mark.parametrize("algorithm", [-7, -36])
def test_an_algorithm_of_another_curve_does_not_verify(algorithm: int) -> None:
    made = sign1(HONEST.platform_claims(), PLATFORM_KEY, algorithm)
    whole = encode(Tag(399, {44234: made, 44241: decode(HONEST.token()).value[44241]}))
    assert signature.check(token.parse(whole), PUBLIC).platform is False


def test_a_point_that_is_not_on_the_curve_does_not_verify() -> None:
    bad = dataclasses.replace(HONEST, realm={44237: b"\x04" + b"\1" * 96})
    assert checked(bad) == TokenChecks(realm=False, bound=True, platform=True)


@pytest.mark.parametrize("part", [44234, 44241])
def test_no_changed_byte_of_a_message_verifies(part: int) -> None:
    parts = dict(decode(VECTOR).value)
    key = signature.read_key(read("attestation/veraison_ccatoken/cca_platform.pub"))
    good = parts[part]
    for at in range(0, len(good), 3):
        parts[part] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        try:
            found = signature.check(token.parse(encode(Tag(399, parts))), key)
        except EvidenceError:
            continue
        assert found != GOOD, at


# -- what is malformed -----------------------------------------------------------------------------------------------


def realm(**changes: Any) -> Callable[[], bytes]:
    return lambda: dataclasses.replace(HONEST, realm=numbered(changes)).token()


def platform(**changes: Any) -> Callable[[], bytes]:
    return lambda: dataclasses.replace(HONEST, platform=numbered(changes)).token()


def numbered(changes: dict[str, Any]) -> dict[int, Any]:
    return {int(name[1:]): value for name, value in changes.items()}


def collection(value: Any, tag: int = 399) -> Callable[[], bytes]:
    return lambda: encode(Tag(tag, value))


def message(value: Any) -> Callable[[], bytes]:
    return collection({44234: encode(value), 44241: b""})


HEADER = encode({1: -35})
MALFORMED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "byte 0"),
    (lambda: VECTOR + b"\0", "1 bytes after"),
    (lambda: bytes(token.MAX_SIZE + 1), "expected at most"),
    (lambda: encode({44234: b"", 44241: b""}), "no collection"),
    (collection({44234: b"", 44241: b""}, 398), "no collection"),
    (collection(()), "expected a map"),
    (collection({44234: b""}), "44241: missing"),
    (collection({44234: b"", 44241: b"", 1: b""}), "token.1: unknown"),
    (collection({44234: "", 44241: b""}), "44234: expected a byte string"),
    (collection({44234: (264, b""), 44241: (263, b"")}, 907), "a record of content format 263"),
    (collection({44234: b"", 44241: b""}, 907), "a record of content format 263"),
    (message((HEADER, {}, b"", b"")), "platform token: no COSE_Sign1"),
    (message(Tag(17, (HEADER, {}, b"", b""))), "platform token: no COSE_Sign1"),
    (message(Tag(18, (HEADER, {}, b""))), "expected four parts"),
    (message(Tag(18, (HEADER, {}, None, b""))), "is no byte string"),
    (message(Tag(18, (encode({1: -8}), {}, b"", b""))), "signature algorithm -8"),
    (message(Tag(18, (encode({1: -35, 2: 1}), {}, b"", b""))), "protected.2: unknown"),
    (message(Tag(18, (b"", {}, b"", b""))), "protected: byte 0"),
    (message(Tag(18, (HEADER, {1: -35}, b"", b""))), "unprotected.1: unknown"),
    (message(Tag(18, (HEADER, {}, b"\x80", b""))), "platform claims: expected a map"),
    (platform(_265=ABSENT), "265: missing"),
    (platform(_265=1), "265: expected a text"),
    (platform(_10=bytes(33)), "33 bytes, expected 32 or 48 or 64"),
    (platform(_2396=bytes(31)), "31 bytes, expected 32"),
    (platform(_256=bytes(32)), "32 bytes, expected 33"),
    (platform(_2401=ABSENT), "2401: missing"),
    (platform(_2395=0x10000), "2395: expected a number"),
    (platform(_2395=True), "2395: expected a number"),
    (platform(_2402="md5"), "`md5`, expected one of"),
    (platform(_2399=()), "at least one component"),
    (platform(_2399=(1,)), "2399\\[0\\]: expected a map"),
    (platform(_2399=(component(_2=b""),)), "0 bytes, expected 32"),
    (platform(_2399=(component(_3=b""),)), "\\.3: unknown"),
    (realm(_10=bytes(32)), "32 bytes, expected 64"),
    (realm(_44235=bytes(63)), "63 bytes, expected 64"),
    (realm(_44236="sha-384"), "digest by sha-384"),
    (realm(_44238=bytes(48)), "48 bytes, expected 32"),
    (realm(_44239=REMS[:3]), "a list of 4 measurements"),
    (realm(_44239=(*REMS[:3], bytes(48))), "32 bytes, a digest by sha-256"),
    (realm(_44239=(*REMS[:3], "x")), "32 bytes, a digest by sha-256"),
    (realm(_44240="sha-1"), "`sha-1`, expected one of"),
    (realm(_44237=b"\2" + bytes(96)), "an uncompressed point of P-384"),
    (realm(_44237=point(REALM_KEY)[:-1]), "an uncompressed point of P-384"),
    (realm(_265="p", _44237=point(REALM_KEY)), "44237: 96 bytes after its end"),
    (realm(_265="p", _44237=cose_key(REALM_KEY, m1=1)), "a key on P-384"),
    (realm(_265="p", _44237=cose_key(REALM_KEY, k1=1)), "a key on P-384"),
    (realm(_265="p", _44237=cose_key(REALM_KEY, k3=-7)), "a key for ES384"),
    (realm(_265="p", _44237=cose_key(REALM_KEY, m2=bytes(47))), "47 bytes, expected 48"),
    (realm(_265="p", _44237=cose_key(REALM_KEY, m4=b"")), "-4: unknown"),
]


@pytest.mark.parametrize(("make", "why"), MALFORMED)
def test_what_is_malformed_is_refused(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(EvidenceError, match=why):
        token.parse(make())


def test_keys_are_those_of_a_curve() -> None:
    der = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert signature.read_key(der) == signature.read_key(samples.pem(PLATFORM_KEY)) == PUBLIC
    other = rsa.generate_private_key(65537, 2048).public_key()
    for bad in (b"", b"-----", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)):
        with pytest.raises(EvidenceError):
            signature.read_key(bad)
