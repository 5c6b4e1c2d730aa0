"""Who signed a report: the chain from its key's certificate to one of AMD's roots.

A chain has exactly three certificates: the leaf (`leaf.Leaf`), SEV-PRODUCT for a chip's key or SEV-VLEK-PRODUCT for a
fleet's, and ARK-PRODUCT, which signs itself. Revocation and validity in time are the caller's. Never imported by the
guest.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

from privml.base.errors import EvidenceError
from privml.evidence import certificates
from privml.evidence.certificates import UnfitError, sha256
from privml.evidence.snp import leaf as leaves
from privml.evidence.snp.leaf import Leaf
from privml.evidence.snp.report import Report

ROOTS = {
    "Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
"""SHA-256 of AMD's root certificate (ARK) of each product."""
_SALT = 48


def verify(report: Report, chain: Sequence[bytes]) -> tuple[Leaf, str]:
    """The leaf that signed ``report``, and the hex SHA-256 of the root of its ``chain`` (DER, leaf first).

    The root may be anyone's: the caller compares it with `ROOTS`. ``EvidenceError`` when the chain is not of AMD's
    shape, or a signature is wrong.
    """
    if len(chain) != 3:
        raise EvidenceError(f"report certificates: {len(chain)}, expected 3: the key's, its issuer's and the root's")
    found = leaves.parse(chain[0])
    product = found.product.name
    try:
        root = certificates.issued(chain[2], None, f"ARK-{product}, signed by itself")
        middle = certificates.issued(chain[1], root, f"a certificate signed by ARK-{product}")
        for certificate in (middle, root):
            certificates.check_critical(certificate)
    except UnfitError as error:
        raise EvidenceError(f"report certificates: {error}") from error
    issuer = f"SEV-{product}" if found.role == "VCEK" else f"SEV-VLEK-{product}"
    _named(root, f"ARK-{product}")
    _named(middle, issuer)
    if found.issuer_name != issuer or found.issuer != middle.subject.public_bytes():
        raise EvidenceError(f"report certificate: issued by `{found.issuer_name}`, expected `{issuer}`")
    _check_leaf(found, middle)
    _check_report(report, found)
    return found, sha256(chain[2])


def _named(certificate: x509.Certificate, expected: str) -> None:
    names = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [expected]:
        raise EvidenceError(f"report certificates: one of `{', '.join(names)[:80]}`, expected `{expected}`")


def _check_leaf(found: Leaf, issuer: x509.Certificate) -> None:
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
        raise EvidenceError("report certificates: the issuer's key is not RSA of 4096 bits")
    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), _SALT)
    try:
        key.verify(found.signature, found.signed, scheme, hashes.SHA384())
    except InvalidSignature as error:
        raise EvidenceError(f"report certificate: not signed by {found.issuer_name}") from error


def _check_report(report: Report, found: Leaf) -> None:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), found.point)
        signature = utils.encode_dss_signature(*report.signature)
        key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except ValueError as error:
        raise EvidenceError("report certificate: its key is no point of P-384") from error
    except InvalidSignature as error:
        raise EvidenceError(f"report: not signed by the {found.role} of its certificate") from error
