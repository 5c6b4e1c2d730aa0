"""Google's launch endorsements: the values of MRTD that Google signed for one build of its firmware.

The signature is RSASSA-PSS with SHA-256 and a salt of 32 bytes, by a key whose certificate is in the signed bytes.
The root ``GCE-cc-tcb-root_1`` issued that certificate directly; it is in ``ca_bundle`` and is known by the SHA-256 of
its DER. No list of revoked certificates is known. `evidence.gceformat` reads the bytes.
Source: google/gce-tcb-verifier, verify/verify.go, endorse/endorse.go, sign/ops.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from privml.base.errors import EvidenceError
from privml.base.times import time_text
from privml.evidence.certificates import UnfitError, check_critical, decode_pem, issued, name_text, sha256
from privml.evidence.gceformat import MAX_BUNDLE, EndorsedMrtd, Unverified, parse

GOOGLE_ROOT_SHA256 = "e876bc6978bf4f3da445f98a0a82363c8c0bae5a1fc033c6df65846a6cb0f18c"
"""SHA-256 of the DER of ``GCE-cc-tcb-root_1``, which Google publishes under pki.goog/cloud_integrity.

Verifiers of several authors pin the same value.
"""

_MIN_KEY_BITS = 3072
_SALT = 32


@dataclass(frozen=True)
class Endorsement:
    """What Google signed: the firmware by its SHA-384, its security version ``svn`` on TDX, and its values of MRTD.

    ``signed_at`` is Google's own time; ``signer`` names the certificate, which is valid from ``valid_from`` to
    ``valid_until`` (Unix seconds, the root's validity included). ``data`` are the endorsement's bytes.
    """

    firmware_sha384: bytes
    svn: int
    values: tuple[EndorsedMrtd, ...]
    signed_at: int
    changelist: int
    signer: str
    valid_from: int
    valid_until: int
    data: bytes

    def of(self, mrtd: bytes, memory: int) -> EndorsedMrtd | None:
        """The endorsed value that is ``mrtd`` and is for machines with ``memory`` bytes; None if there is none."""
        return next((one for one in self.values if one.mrtd == mrtd and one.fits(memory)), None)


def read(data: bytes, *, now: int | None) -> Endorsement:
    """Read an endorsement and check its signature up to Google's root; ``EvidenceError`` naming what is wrong.

    The certificates must be valid ``now`` (Unix seconds). None leaves the time out: for an endorsement that was
    accepted when its platform was learnt.
    """
    found = parse(data)
    certificates = _chain(found)
    _check_signature(certificates[0], found)
    valid_from = max(int(one.not_valid_before_utc.timestamp()) for one in certificates)
    valid_until = min(int(one.not_valid_after_utc.timestamp()) for one in certificates)
    if now is not None and not valid_from <= now <= valid_until:
        code = "endorsement-expired" if now > valid_until else "endorsement-future"
        raise EvidenceError(
            f"{code}: its certificates are valid from {time_text(valid_from)} to {time_text(valid_until)}, "
            f"and it is {time_text(now)}",
            hint="get the endorsement of the firmware that the machines have now",
        )
    return Endorsement(
        firmware_sha384=found.firmware_sha384,
        svn=found.svn,
        values=found.values,
        signed_at=found.signed_at,
        changelist=found.changelist,
        signer=_signer(certificates[0]),
        valid_from=valid_from,
        valid_until=valid_until,
        data=data,
    )


def _chain(found: Unverified) -> tuple[x509.Certificate, x509.Certificate]:
    """The signer's certificate and the root, which issued it."""
    try:
        with _long_country():
            top = issued(_root(found.bundle), None, "Google's root, signed with its own key")
            signer = issued(found.certificate, top, "a certificate that Google's root issued")
            check_critical(signer)
            _check_use(signer)
    except UnfitError as error:
        raise EvidenceError(
            f"endorsement-root: got {error.found}, expected {error.expected}",
            hint="get it from Google, under the MRTD of the machine",
        ) from error
    return signer, top


def _root(pem: bytes) -> bytes:
    bundle = decode_pem(pem, limit=MAX_BUNDLE)
    root = next((der for der in bundle if sha256(der) == GOOGLE_ROOT_SHA256), None)
    if root is None:
        got = ", ".join(map(sha256, bundle)) or "no certificate"
        raise UnfitError(f"a bundle with {got}", f"Google's root {GOOGLE_ROOT_SHA256}")
    return root


def _check_use(signer: x509.Certificate) -> None:
    for item in signer.extensions:
        if isinstance(item.value, x509.BasicConstraints) and item.value.ca:
            raise UnfitError("a CA's certificate", "one for signatures only")
        if isinstance(item.value, x509.KeyUsage) and not item.value.digital_signature:
            raise UnfitError("a certificate that is not for signatures", "one for signatures only")


@contextmanager
def _long_country() -> Iterator[None]:
    """Google writes ``C=USA``, of which `cryptography` warns: a country has two letters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)
        yield


def _signer(certificate: x509.Certificate) -> str:
    with _long_country():
        return name_text(certificate.subject)


def _check_signature(certificate: x509.Certificate, found: Unverified) -> None:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_KEY_BITS:
        raise EvidenceError(f"endorsement-signature: a key of another kind, expected RSA of {_MIN_KEY_BITS} bits")
    try:
        key.verify(found.signature, found.signed, padding.PSS(padding.MGF1(hashes.SHA256()), _SALT), hashes.SHA256())
    except InvalidSignature as error:
        raise EvidenceError(
            "endorsement-signature: the signature is not that of the certificate in it over these bytes",
            hint="get it from Google, under the MRTD of the machine",
        ) from error
