"""Google's launch endorsements: the values of MRTD that Google signed for one build of its firmware.

A ``VMLaunchEndorsement`` holds a ``VMGoldenMeasurement`` as bytes, and the signature over exactly these bytes:
RSASSA-PSS with SHA-256 and a salt of 32 bytes, by a key whose certificate is in the signed bytes. The root
``GCE-cc-tcb-root_1`` issued that certificate directly; it is in ``ca_bundle`` and is known by the SHA-256 of its DER.
No list of revoked certificates is known.
Source: google/gce-tcb-verifier, proto/endorsement.proto, verify/verify.go, endorse/endorse.go, sign/ops.
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
from privml.evidence.protobuf import BYTES, VARINT, Message

GOOGLE_ROOT_SHA256 = "e876bc6978bf4f3da445f98a0a82363c8c0bae5a1fc033c6df65846a6cb0f18c"
"""SHA-256 of the DER of ``GCE-cc-tcb-root_1``, which Google publishes under pki.goog/cloud_integrity.

Verifiers of several authors pin the same value.
"""

MAX_SIZE = 64 << 10
_MAX_CERTIFICATE = 8 << 10
_MAX_BUNDLE = 16 << 10
_MAX_SIGNATURE = 1024
_MIN_KEY_BITS = 3072
_DIGEST = (48, 48)
_SALT = 32
GIB = 1 << 30


@dataclass(frozen=True)
class EndorsedMrtd:
    """One value: of machines with ``ram_gib`` of memory, or of all (0), and of those whose firmware accepts all of it
    (``early_accept``)."""

    ram_gib: int
    early_accept: bool
    mrtd: bytes

    def fits(self, memory: int) -> bool:
        """True if it is for machines with that many bytes of memory."""
        return self.ram_gib in (0, memory // GIB)

    def __str__(self) -> str:
        machines = f"{self.ram_gib} GiB" if self.ram_gib else "any memory"
        return f"{self.mrtd.hex()}, {machines}{', all memory accepted early' if self.early_accept else ''}"


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


def is_endorsement(head: bytes, size: int) -> bool:
    """True if a file of ``size`` bytes that begins with ``head`` has the outer form of an endorsement: a field 1 that
    begins with a timestamp and leaves room for a signature only."""
    if head[:1] != b"\x0a" or size > MAX_SIZE:
        return False
    inner = 0
    for place, byte in enumerate(head[1:4]):
        inner |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            at = 2 + place
            return head[at : at + 1] == b"\x0a" and 0 < size - at - inner <= _MAX_SIGNATURE + 8
    return False


@dataclass(frozen=True)
class Unverified:
    """The parts of an endorsement whose signature is not checked yet. ``signed`` are the bytes that it covers."""

    signed: bytes
    signature: bytes
    certificate: bytes
    bundle: bytes
    firmware_sha384: bytes
    svn: int
    values: tuple[EndorsedMrtd, ...]
    signed_at: int
    changelist: int


def parse(data: bytes) -> Unverified:
    """Read every byte of an endorsement; ``EvidenceError`` for any other encoding than a serialiser's."""
    if len(data) > MAX_SIZE:
        raise EvidenceError(f"endorsement-encoding: {len(data)} bytes, expected at most {MAX_SIZE}")
    outer = _message(data, "VMLaunchEndorsement", {1: BYTES, 2: BYTES})
    signed, signature = outer.data(1, sizes=(1, MAX_SIZE)), outer.data(2, sizes=(1, _MAX_SIGNATURE))
    kinds = {1: BYTES, 2: VARINT, 3: BYTES, 4: BYTES, 5: BYTES, 6: BYTES, 7: BYTES, 8: BYTES}
    golden = _message(signed, "VMGoldenMeasurement", kinds)
    time = _message(golden.data(1, sizes=(0, 32)), "timestamp", {1: VARINT, 2: VARINT})
    time.number(2, bits=30)
    golden.data(3, sizes=(0, 64))
    if golden.has(7):
        _snp(golden.data(7, sizes=(1, MAX_SIZE)))
    if not golden.has(8):
        raise EvidenceError("endorsement-tdx: it has no values for TDX, expected VMTdx")
    tdx = _message(golden.data(8, sizes=(1, MAX_SIZE)), "VMTdx", {1: VARINT, 2: BYTES}, frozenset({2}))
    return Unverified(
        signed=signed,
        signature=signature,
        certificate=golden.data(4, sizes=(1, _MAX_CERTIFICATE)),
        bundle=golden.data(6, sizes=(1, _MAX_BUNDLE)),
        firmware_sha384=golden.data(5, sizes=_DIGEST),
        svn=tdx.number(1, bits=32),
        values=_values(tdx.each(2, sizes=(1, 128))),
        signed_at=time.number(1, bits=34),
        changelist=golden.number(2, bits=64),
    )


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


def _message(
    data: bytes, name: str, known: dict[int, int], repeated: frozenset[int] = frozenset(), *, zeros: bool = False
) -> Message:
    return Message(data, f"endorsement-encoding: {name}", known, repeated, zeros=zeros)


def _values(rows: tuple[bytes, ...]) -> tuple[EndorsedMrtd, ...]:
    found: list[EndorsedMrtd] = []
    for row in rows:
        part = _message(row, "VMTdx.Measurement", {1: VARINT, 2: VARINT, 3: BYTES})
        value = EndorsedMrtd(part.number(1, bits=32), part.flag(2), part.data(3, sizes=_DIGEST))
        if any((value.ram_gib, value.early_accept) == (each.ram_gib, each.early_accept) for each in found):
            raise EvidenceError(f"endorsement-tdx: two values for machines with {value.ram_gib} GiB, expected one")
        found.append(value)
    if not found:
        raise EvidenceError("endorsement-tdx: no value of MRTD, expected at least one")
    return tuple(found)


def _snp(data: bytes) -> None:
    """Read the part for SEV-SNP, none of which is used: every byte must have a meaning."""
    kinds = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES}
    part = _message(data, "VMSevSnp", kinds, frozenset({2}))
    part.number(1, bits=32)
    part.number(5, bits=64)
    for field in (3, 4):
        part.data(field, sizes=(16, 16) if part.has(field) else (0, 0))
    part.data(6, sizes=(0, _MAX_BUNDLE))
    counts = []
    for row in part.each(2, sizes=(1, 128)):
        # Serialisers write both fields of a map's entry, also when they are zero.
        entry = _message(row, "VMSevSnp.measurements", {1: VARINT, 2: BYTES}, zeros=True)
        counts.append(entry.number(1, bits=32))
        entry.data(2, sizes=_DIGEST)
    if len(set(counts)) != len(counts):
        raise EvidenceError("endorsement-encoding: VMSevSnp.measurements: the same number of vCPUs twice")


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
    bundle = decode_pem(pem, limit=_MAX_BUNDLE)
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
