"""Revocation answers: for this certificate, by its authority, valid now."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import gpu_samples as gpus
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from privml.evidence.certificates import UnfitError
from privml.evidence.nvidia.ocsp import MAX_CLOCK_SKEW, check, load
from privml.sim import gpu, gpupki

NOW = gpus.NOW
_, ROM, PROVISIONER, IDENTITY, ROOT = gpu.device_chain(gpu.GPUS[0])
ABOVE = (PROVISIONER, IDENTITY, ROOT)
KEY = gpupki.private_key("GH100 provisioner")
RESPONDER_KEY = gpupki.private_key("responder")


def answer(**changes: Any) -> bytes:
    given: dict[str, Any] = {"asked": ROM, "issuer": PROVISIONER, "key": KEY, "now": NOW, **changes}
    return gpupki.answer(given.pop("asked"), given.pop("issuer"), given.pop("key"), given.pop("now"), **given)


def judged(der: bytes, certificate: x509.Certificate = ROM, now: int = NOW) -> Any:
    return check(load(der), certificate, ABOVE, now=now)


def responder(
    issuer: x509.Certificate = PROVISIONER,
    key: Any = KEY,
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
    ca: bool = False,
    not_after: datetime = gpupki.NOT_AFTER,
    critical: x509.ExtensionType | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SIMULATED responder")]))
        .issuer_name(issuer.subject)
        .public_key(RESPONDER_KEY.public_key())
        .serial_number(77)
        .not_valid_before(gpupki.NOT_BEFORE)
        .not_valid_after(not_after)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    return builder.sign(key, hashes.SHA384())


def by_responder(**changes: Any) -> bytes:
    return answer(responder=responder(**changes), key=RESPONDER_KEY)


@pytest.mark.parametrize(
    "der",
    [
        answer(),
        by_responder(),
        by_responder(issuer=IDENTITY, key=gpupki.private_key("identity")),
        by_responder(issuer=ROOT, key=gpupki.private_key("root")),
        answer(now=NOW + MAX_CLOCK_SKEW),
        answer(responder=PROVISIONER),
    ],
    ids=["issuer", "responder", "of the authority above", "of the root", "clock ahead", "issuer, sent along"],
)
def test_an_answer_of_the_authority_is_good(der: bytes) -> None:
    assert not judged(der).revoked


def test_the_answer_says_when_and_for_whom() -> None:
    found = judged(answer(nonce=b"mine"))
    assert (found.time, found.nonce, found.revoked) == (NOW, b"mine", False)
    assert judged(answer()).nonce is None


def test_revoked_is_revoked_also_in_an_old_answer() -> None:
    der = answer(status=ocsp.OCSPCertStatus.REVOKED, now=NOW - 10**6)
    assert judged(der).revoked


# One answer: signatures are random, so the last byte of another is the right one once in 256 times.
WHOLE = answer()
FORGED = WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (answer(asked=PROVISIONER, issuer=IDENTITY, key=gpupki.private_key("identity")), "another certificate"),
        (answer(issuer=IDENTITY, key=gpupki.private_key("identity")), "another certificate"),
        (FORGED, "signature is invalid"),
        (answer(status=ocsp.OCSPCertStatus.UNKNOWN), "the answer unknown"),
        (answer(now=NOW - 3601), "an answer valid from"),
        (answer(now=NOW + MAX_CLOCK_SKEW + 1), "an answer valid from"),
        (answer(responder=IDENTITY, key=gpupki.private_key("identity")), "may not sign answers|is a CA"),
        (by_responder(key=gpupki.private_key("a stranger")), "not signed with the key"),
        (by_responder(purposes=()), "may not sign answers"),
        (by_responder(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "may not sign answers"),
        (
            by_responder(purposes=(ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH)),
            "may not sign answers",
        ),
        (by_responder(ca=True), "is a CA"),
        (by_responder(not_after=datetime(2026, 2, 1, tzinfo=UTC)), "a responder that is not valid"),
        (by_responder(critical=x509.InhibitAnyPolicy(1)), "critical extension"),
        (by_responder(issuer=gpu.device_chain(gpu.GPUS[1])[1], key=KEY), "a responder issued by"),
    ],
)
def test_any_other_answer_is_none(der: bytes, words: str) -> None:
    with pytest.raises(UnfitError, match=words):
        judged(der)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x03\x0a\x01\x01",  # malformedRequest
        answer() + b"\0",
        answer()[:-1],
    ],
)
def test_what_is_no_answer_is_refused(der: bytes) -> None:
    with pytest.raises(UnfitError):
        load(der)


def test_no_changed_bit_of_an_answer_is_accepted() -> None:
    der = by_responder()
    assert not judged(der).revoked
    for at in range(len(der)):
        changed = der[:at] + bytes([der[at] ^ 1 << at % 8]) + der[at + 1 :]
        with pytest.raises(UnfitError):
            judged(changed)
    for signature in (load(der).signature, load(der).certificates[0].signature):
        at = der.rfind(signature) - 1
        with pytest.raises(UnfitError, match=r"unused bits|unreadable"):
            judged(der[:at] + b"\1" + der[at + 1 :])


def test_answers_are_for_the_whole_chain_below_the_root() -> None:
    """The leaf is made by the device; nobody can be asked about it."""
    devices = gpus.claims_of(gpu.evidence(bytes(32)))
    anchors = gpus.signature.Anchors(gpus.ROOTS)
    full = dataclasses.replace(gpus.collateral(), rims=(), ocsp=gpu.answers(gpu.GPUS[:1], NOW))
    found = gpus.signature.check(devices, full, now=NOW, anchors=anchors)
    assert (found.revocation.answered, found.revocation.unanswered, found.unread) == (3, (), ())
    for missing in range(3):
        less = dataclasses.replace(full, ocsp=full.ocsp[:missing] + full.ocsp[missing + 1 :])
        found = gpus.signature.check(devices, less, now=NOW, anchors=anchors)
        assert (found.revocation.answered, len(found.revocation.unanswered)) == (2, 1)
