"""Who signed a report: the chain from its key's certificate to one of AMD's roots, and that root's revocations.

A chain has exactly three certificates: the leaf (`leaf.Leaf`), SEV-PRODUCT for a chip's key or SEV-VLEK-PRODUCT for a
fleet's, and ARK-PRODUCT, which signs itself. Validity in time is the caller's. Never imported by the guest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from privml.base.errors import EvidenceError
from privml.evidence import certificates
from privml.evidence.certificates import UNREADABLE, UnfitError, sha256
from privml.evidence.claims import Validity
from privml.evidence.snp import leaf as leaves
from privml.evidence.snp.leaf import Leaf
from privml.evidence.snp.report import Report

CHAIN = "snp-chain"
SIGNATURE = "report-signature"
REVOCATION = "revocation-list"
_SALT = 48


class ChainError(EvidenceError):
    """Certificates, a report or a revocation list that do not belong together. ``code`` is the refusal code."""

    def __init__(self, found: str, expected: str, code: str = CHAIN) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found = found
        self.expected = expected
        self.code = code


@dataclass(frozen=True)
class Chain:
    """The chain of a report: the leaf, its issuer and the root, whose hex SHA-256 is ``root_sha256``."""

    leaf: Leaf
    issuer: x509.Certificate
    root: x509.Certificate
    root_sha256: str

    @property
    def validity(self) -> tuple[Validity, ...]:
        """The dates of the three certificates."""
        leaf = self.leaf
        found = ((leaf.role, leaf.not_before, leaf.not_after),)
        others = ((common_name(one), one.not_valid_before_utc, one.not_valid_after_utc) for one in self._authorities)
        return tuple(
            Validity(f"certificate of {name}", int(start.timestamp()), int(end.timestamp()))
            for name, start, end in (*found, *others)
        )

    @property
    def _authorities(self) -> tuple[x509.Certificate, x509.Certificate]:
        return self.issuer, self.root

    def revoked(self, revocations: Revocations) -> str:
        """The certificate that the root has revoked; empty if there is none. Leaves have no serial number."""
        for one in self._authorities:
            if one.serial_number in revocations.serials:
                return f"the revoked certificate of {common_name(one)}, serial number {one.serial_number:x}"
        return ""


@dataclass(frozen=True)
class Revocations:
    """A root's revocation list: its dates, and the serial numbers that it revokes."""

    validity: Validity
    serials: frozenset[int]


def verify(report: Report, chain: Sequence[bytes]) -> Chain:
    """The certificates (DER, leaf first) of the key that signed ``report``, if they are a chain of AMD's form.

    The root may be anyone's: the caller compares it with the product's. ``ChainError`` when the chain is not of AMD's
    form, or a signature is wrong.
    """
    found = read(tuple(chain))
    _check_report(report, found.leaf)
    return found


@functools.lru_cache(32)
def read(chain: tuple[bytes, ...]) -> Chain:
    """The chain of three certificates (DER, leaf first); ``ChainError`` if it is not of AMD's form."""
    if len(chain) != 3:
        raise ChainError(f"report certificates: {len(chain)}", "3: the key's, its issuer's and the root's")
    try:
        found = leaves.parse(chain[0])
    except EvidenceError as error:
        raise ChainError(error.message, "a certificate of AMD's form") from error
    product = found.product.name
    try:
        root = certificates.issued(chain[2], None, f"ARK-{product}, signed by itself")
        middle = certificates.issued(chain[1], root, f"a certificate signed by ARK-{product}")
        for certificate in (middle, root):
            certificates.check_critical(certificate)
    except UnfitError as error:
        raise ChainError(f"report certificates: {error.found}", error.expected) from error
    issuer = f"SEV-{product}" if found.role == "VCEK" else f"SEV-VLEK-{product}"
    _named(root, f"ARK-{product}")
    _named(middle, issuer)
    if found.issuer_name != issuer or found.issuer != middle.subject.public_bytes():
        raise ChainError(f"report certificate: issued by `{found.issuer_name}`", f"`{issuer}`")
    _check_leaf(found, middle)
    return Chain(found, middle, root, sha256(chain[2]))


@functools.lru_cache(8)
def revocations(data: bytes, root: x509.Certificate) -> Revocations:
    """Read a revocation list (DER) that ``root`` signed; ``ChainError`` for any other."""
    wanted = f"one that {common_name(root)} signed"
    try:
        found = x509.load_der_x509_crl(data)
        serials = frozenset(each.serial_number for each in found)
        issuer, until, extensions = found.issuer, found.next_update_utc, found.extensions
        certificates.check_bits(data, found.signature, wanted)
    except UnfitError as error:
        raise ChainError(f"revocation list: {error.found}", error.expected, REVOCATION) from error
    except UNREADABLE as error:
        raise ChainError(f"revocation list: unreadable ({error})", wanted, REVOCATION) from error
    if issuer != root.subject:
        raise ChainError(f"revocation list: of {certificates.name_text(issuer)}", wanted, REVOCATION)
    if found.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS or not _signed_by(
        root, found.signature, found.tbs_certlist_bytes
    ):
        raise ChainError("revocation list: not signed by it", wanted, REVOCATION)
    if until is None or any(one.critical for one in extensions):
        raise ChainError("revocation list: no end of its validity, or a critical extension", wanted, REVOCATION)
    issued = int(found.last_update_utc.timestamp())
    return Revocations(Validity("revocation list", issued, int(until.timestamp())), serials)


def common_name(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject, at most 80 characters."""
    return ", ".join(str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))[:80]


def _named(certificate: x509.Certificate, expected: str) -> None:
    found = common_name(certificate)
    if found != expected:
        raise ChainError(f"report certificates: one of `{found}`", f"`{expected}`")


def _check_leaf(found: Leaf, issuer: x509.Certificate) -> None:
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
        raise ChainError("report certificates: an issuer whose key is another", "an RSA key of 4096 bits")
    if not _signed_by(issuer, found.signature, found.signed):
        raise ChainError(f"report certificate: not signed by {found.issuer_name}", "a signature by it")


def _signed_by(issuer: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """True if ``issuer`` signed ``data`` in AMD's way: RSASSA-PSS, SHA-384 and a salt of 48 bytes."""
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        key.verify(signature, data, padding.PSS(padding.MGF1(hashes.SHA384()), _SALT), hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def _check_report(report: Report, found: Leaf) -> None:
    wanted = f"a signature by the {found.role}"
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), found.point)
        signature = utils.encode_dss_signature(*report.signature)
        key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except ValueError as error:
        raise ChainError("report certificate: a key that is no point of P-384", wanted, SIGNATURE) from error
    except InvalidSignature as error:
        raise ChainError(f"report: not signed by the {found.role} of its certificate", wanted, SIGNATURE) from error
