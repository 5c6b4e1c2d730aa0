"""Revocation answers (OCSP, RFC 6960). Never imported by the guest.

An answer counts if it is for exactly this certificate and its issuer, and if the issuer signed it, or a responder to
which the issuer or an authority above it gave the right to sign answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from privml.evidence import certificates
from privml.evidence.certificates import UnfitError, name_text

MAX_CLOCK_SKEW = 300
"""Seconds by which an authority's clock may be ahead of the caller's."""

_HASHES = ("sha256", "sha384", "sha512")


@dataclass(frozen=True)
class Answer:
    """A valid answer: whether the certificate is revoked, the answer's time (Unix seconds), and its nonce."""

    revoked: bool
    time: int
    nonce: bytes | None


def load(der: bytes) -> ocsp.OCSPResponse:
    """Read an answer that says something about exactly one certificate; ``UnfitError`` otherwise."""
    wanted = "a successful answer for one certificate"
    try:
        response = ocsp.load_der_ocsp_response(der)
        status = response.response_status
        one = status is ocsp.OCSPResponseStatus.SUCCESSFUL and (
            len(list(response.responses)) == 1 and len(response.certificates) <= 1
        )
        if one:
            _ = response.serial_number, response.extensions, response.single_extensions
        same = response.public_bytes(Encoding.DER) == der
    except certificates.UNREADABLE as error:
        raise UnfitError(f"an unreadable answer ({error})", wanted) from error
    if not one or not same:
        raise UnfitError(f"an answer of another form, with status {status.name.lower()}", wanted)
    certificates.check_bits(der, response.signature, wanted)
    return response


def check(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, authorities: Sequence[x509.Certificate], *, now: int
) -> Answer:
    """The answer for ``certificate``, whose issuer and the authorities above it are ``authorities``, in order.

    ``UnfitError`` if it is for another certificate, signed by somebody else, unknown, or not valid at ``now``. A
    certificate that was revoked once stays revoked, also in an old answer.
    """
    issuer = authorities[0]
    try:
        _is_for(response, certificate, issuer)
        _is_signed(response, authorities, now)
        status = response.certificate_status
        made, until = response.this_update_utc, response.next_update_utc
    except UnfitError:
        raise
    except certificates.UNREADABLE as error:
        raise UnfitError(f"an unreadable answer ({error})", "an OCSP answer") from error
    time = int(made.timestamp())
    if status is ocsp.OCSPCertStatus.REVOKED:
        return Answer(revoked=True, time=time, nonce=None)
    if status is not ocsp.OCSPCertStatus.GOOD:
        raise UnfitError(f"the answer {status.name.lower()}", "the answer good")
    if time > now + MAX_CLOCK_SKEW or (until is not None and until.timestamp() < now):
        end = "later" if until is None else f"{until:%Y-%m-%dT%H:%M:%SZ}"
        raise UnfitError(f"an answer valid from {made:%Y-%m-%dT%H:%M:%SZ} to {end}", f"one valid at {_text(now)}")
    return Answer(revoked=False, time=time, nonce=_nonce(response))


def _text(now: int) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _nonce(response: ocsp.OCSPResponse) -> bytes | None:
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            return extension.value.nonce
    return None


def _is_for(response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    algorithm = response.hash_algorithm.name
    if algorithm not in _HASHES:
        raise UnfitError(f"an answer with {algorithm} digests", f"one with {', '.join(_HASHES)}")
    name = hashlib.new(algorithm, issuer.subject.public_bytes()).digest()
    key = hashlib.new(algorithm, _point(issuer.public_key())).digest()
    found = (response.serial_number, response.issuer_name_hash, response.issuer_key_hash)
    if found != (certificate.serial_number, name, key):
        raise UnfitError("an answer for another certificate", f"one for {name_text(certificate.subject)}")


def _point(key: object) -> bytes:
    """The bits of a public key, which answers name by their digest."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UnfitError("an issuer with another kind of key", "an elliptic curve key")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _is_signed(response: ocsp.OCSPResponse, authorities: Sequence[x509.Certificate], now: int) -> None:
    wanted = f"an answer signed by {name_text(authorities[0].subject)} or its responder"
    signer = _responder(response.certificates[0], authorities, now) if response.certificates else authorities[0]
    named = signer.subject == response.responder_name if response.responder_name is not None else (
        hashlib.sha1(_point(signer.public_key()), usedforsecurity=False).digest() == response.responder_key_hash
    )  # fmt: skip
    if not named:
        raise UnfitError("an answer that names another responder", wanted)
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None or algorithm.name not in _HASHES:
        raise UnfitError("an answer with another kind of signature", wanted)
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise UnfitError("an answer whose signature is invalid", wanted) from error


def _responder(certificate: x509.Certificate, authorities: Sequence[x509.Certificate], now: int) -> x509.Certificate:
    """The responder's certificate in an answer, if an authority made it for that purpose."""
    if certificate in authorities[:1]:
        return authorities[0]
    wanted = f"a responder for {name_text(authorities[0].subject)}"
    issuer = next((found for found in authorities if found.subject == certificate.issuer), None)
    if issuer is None:
        raise UnfitError(f"a responder issued by {name_text(certificate.issuer)}", wanted)
    certificates.issued(certificate.public_bytes(Encoding.DER), issuer, wanted)
    purposes: list[x509.ObjectIdentifier] = []
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            purposes = list(extension.value)
        elif isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise UnfitError("a responder that is a CA", wanted)
        elif extension.critical and extension.oid not in (
            *certificates.KNOWN_CRITICAL,
            ExtensionOID.EXTENDED_KEY_USAGE,
        ):
            raise UnfitError(f"a responder with the critical extension {extension.oid.dotted_string}", wanted)
    if purposes != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        raise UnfitError("a certificate that may not sign answers", wanted)
    if not certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp():
        raise UnfitError("a responder that is not valid", f"one valid at {_text(now)}")
    return certificate
