"""Certificate roles and exact chain shapes, checked before the QVL is called. Never imported by the guest.

The QVL accepts TCB info and QE identity signed by any certificate below the root. With one leaked PCK key an attacker
could therefore sign TCB info that calls an outdated platform ``UpToDate``. This module accepts a chain only if it has
exactly the certificates of its role, with the names given by the authority, and no extra bytes.

The role of the first certificate determines the chain: the role of its issuer is next, up to the root. Layout of the
certificates: Intel "SGX PCK Certificate and CRL Profile" 1.6, compared with chains that Intel's service sent. The QVL
checks revocation and validity in time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privml.evidence import certificates
from privml.evidence.certificates import UnfitError, name_text, sha256

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
"""Extension with PPID, TCB and FMSPC; only Intel's PCK certificates have it."""

MAX_CHAIN = 16 * 1024
"""Bytes of PEM. Real chains have less than 4 KiB."""


@dataclass(frozen=True)
class Role:
    """The role of a certificate: one row of the table below.

    ``common_names`` are the accepted endings of the subject's common name (`Naming.prefix` comes before them), ``ca``
    says whether it signs certificates and revocation lists, ``sgx_extension`` whether it has `SGX_EXTENSION`.
    ``issuer`` is the role of the certificate that signs it; None only for the root, which signs itself.
    """

    name: str
    common_names: tuple[str, ...]
    ca: bool
    sgx_extension: bool
    issuer: Role | None

    def chain(self) -> tuple[Role, ...]:
        """The roles of the whole chain: this one first, the root last."""
        return (self,) if self.issuer is None else (self, *self.issuer.chain())


ROOT = Role("root CA", ("Root CA",), ca=True, sgx_extension=False, issuer=None)
PCK_CA = Role("PCK CA", ("PCK Platform CA", "PCK Processor CA"), ca=True, sgx_extension=False, issuer=ROOT)
PCK = Role("PCK", ("PCK Certificate",), ca=False, sgx_extension=True, issuer=PCK_CA)
TCB_SIGNING = Role("TCB signing", ("TCB Signing",), ca=False, sgx_extension=False, issuer=ROOT)
ROLES = (ROOT, PCK_CA, PCK, TCB_SIGNING)


@dataclass(frozen=True)
class Naming:
    """How an authority names its certificates: ``prefix`` of the common name, then ``others``, in this order."""

    prefix: str
    others: tuple[tuple[x509.ObjectIdentifier, str], ...]

    def subjects(self, role: Role) -> tuple[x509.Name, ...]:
        """All subjects allowed for a certificate of ``role``."""
        names = [(NameOID.COMMON_NAME, self.prefix + common_name) for common_name in role.common_names]
        return tuple(x509.Name([x509.NameAttribute(*part) for part in (name, *self.others)]) for name in names)


INTEL = Naming(
    "Intel SGX ",
    (
        (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    ),
)
SIMULATION = Naming("SIMULATED privml-build ", ((NameOID.ORGANIZATION_NAME, "SIMULATED, anybody can forge this"),))


@dataclass(frozen=True)
class Place:
    """Location of a chain, the role of its first certificate, and the refusal code."""

    name: str
    role: Role
    code: str


QUOTE = Place("quote", PCK, "pck-chain")
PCK_CRL = Place("pck_crl_issuer_chain", PCK_CA, "collateral-role")
TCB_INFO = Place("tcb_info_issuer_chain", TCB_SIGNING, "collateral-role")
QE_IDENTITY = Place("qe_identity_issuer_chain", TCB_SIGNING, "collateral-role")

_KEPT = 32
"""Chains and revocation lists whose successful check is remembered: the result depends on the arguments only."""

CRL_ISSUERS = {"root_ca_crl": ROOT, "pck_crl": PCK_CA}
"""The revocation lists of the collateral, each with the role that signs it."""


@dataclass(frozen=True)
class Chain:
    """A chain with the exact shape: the DER of its certificates, the root last."""

    role: Role
    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class CollateralChains:
    """The three chains of collateral, and its revocation lists by field."""

    pck_crl: Chain
    tcb_info: Chain
    qe_identity: Chain
    lists: Mapping[str, x509.CertificateRevocationList]


@dataclass(frozen=True)
class Chains(CollateralChains):
    """The chains of a quote and its collateral."""

    quote: Chain


class ChainError(ValueError):
    """A chain has the wrong shape or role. ``code`` is the verdict's refusal code."""

    def __init__(self, place: Place, found: str, expected: str) -> None:
        super().__init__(f"{place.name}: {found}, expected {expected}")
        self.code = place.code
        self.found = f"{place.name}: {found}"
        self.expected = expected


def read_hex(name: str, text: str) -> bytes:
    """The bytes of a collateral field in hex; ``ChainError`` for another spelling than lower case.

    The QVL ignores the case of hex digits, so two texts would be the same collateral.
    """
    if not _HEX.fullmatch(text):
        raise ChainError(Place(name, ROOT, "collateral-encoding"), "other characters", "lower-case hex digits only")
    return bytes.fromhex(text)


def check(certificates: bytes, collateral: Mapping[str, str], *, root: bytes, naming: Naming) -> Chains:
    """Check the chain in the quote, and chains and revocation lists of its collateral; ``ChainError`` for a bad one.

    ``certificates`` is the quote's PEM chain, ``root`` the DER of the anchor, ``naming`` that anchor's names.
    """
    quote = read(QUOTE, certificates, root=root, naming=naming)
    found = check_collateral(collateral, root=root, naming=naming)
    if found.pck_crl.certificates != quote.certificates[1:]:
        raise ChainError(
            PCK_CRL,
            f"a PCK CA certificate with SHA-256 {sha256(found.pck_crl.certificates[0])}",
            f"the one in the quote, {sha256(quote.certificates[1])}",
        )
    return Chains(found.pck_crl, found.tcb_info, found.qe_identity, found.lists, quote)


def check_collateral(collateral: Mapping[str, str], *, root: bytes, naming: Naming) -> CollateralChains:
    """Check the chains and revocation lists of collateral without a quote; ``ChainError`` for a bad one."""
    pck_crl, tcb_info, qe_identity = (
        read(place, collateral.get(place.name, "").encode(errors="replace"), root=root, naming=naming)
        for place in (PCK_CRL, TCB_INFO, QE_IDENTITY)
    )
    issuers = {PCK_CA: pck_crl.certificates[0], ROOT: root}
    lists = {
        name: _revocation_list(name, role, read_hex(name, collateral.get(name, "")), issuers[role])
        for name, role in CRL_ISSUERS.items()
    }
    return CollateralChains(pck_crl, tcb_info, qe_identity, lists)


@functools.lru_cache(_KEPT)
def _revocation_list(name: str, role: Role, der: bytes, issuer: bytes) -> x509.CertificateRevocationList:
    """The revocation list ``der`` if ``issuer`` signed it and nothing follows it; ``ChainError`` otherwise."""
    place = Place(name, role, "collateral-role")
    signer = x509.load_der_x509_certificate(issuer)
    wanted = f"one signed by {name_text(signer.subject)}"
    try:
        found = x509.load_der_x509_crl(der)
        named = found.issuer
        key = signer.public_key()
        signed = isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
        certificates.check_bits(der, found.signature, wanted)
    except certificates.UNREADABLE as error:
        raise ChainError(place, f"an unreadable revocation list ({error})", wanted) from error
    if named != signer.subject:
        raise ChainError(place, f"a revocation list by {name_text(named)}", wanted)
    if not signed:
        raise ChainError(place, "a revocation list that its issuer did not sign", wanted)
    return found


@functools.lru_cache(_KEPT)
def read(place: Place, pem: bytes, *, root: bytes, naming: Naming) -> Chain:
    """Read one chain and check its shape, names, extensions and signatures; ``ChainError`` if any differs."""
    roles = place.role.chain()
    encoded = _decode(place, pem)
    if len(encoded) != len(roles):
        wanted = ", ".join(role.name for role in roles)
        raise ChainError(place, f"{len(encoded)} certificates", f"{len(roles)}: {wanted}")
    if encoded[-1] != root:
        found = f"a last certificate with SHA-256 {sha256(encoded[-1])}"
        raise ChainError(place, found, f"the root certificate {sha256(root)}")
    issuer: x509.Certificate | None = None
    # From the root down, so that only certificates signed by the authority are interpreted.
    for number in range(len(roles), 0, -1):
        try:
            issuer = _issued(encoded[number - 1], issuer, roles[number - 1], naming)
        except UnfitError as error:
            found = f"certificate {number} of {len(roles)} is {error.found}"
            raise ChainError(place, found, error.expected) from error
    return Chain(place.role, encoded)


_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def _decode(place: Place, pem: bytes) -> tuple[bytes, ...]:
    try:
        return certificates.decode_pem(pem, limit=MAX_CHAIN)
    except UnfitError as error:
        raise ChainError(place, error.found, error.expected) from error


def _issued(der: bytes, issuer: x509.Certificate | None, role: Role, naming: Naming) -> x509.Certificate:
    """The certificate ``der`` if ``issuer`` (None: itself) issued it for ``role``; ``UnfitError`` otherwise."""
    certificate = certificates.issued(der, issuer, f"a {role.name} certificate issued by the next one")
    subject, extensions = certificate.subject, certificate.extensions
    subjects = naming.subjects(role)
    if subject not in subjects:
        raise UnfitError(name_text(subject), " or ".join(map(name_text, subjects)))
    is_ca = _is_ca(extensions)
    if is_ca is not role.ca:
        words = {True: "a CA", False: "not a CA", None: "neither clearly a CA nor clearly none"}
        raise UnfitError(f"{words[is_ca]}, by basic constraints and key usage", f"one that is {words[role.ca]}")
    has_sgx = any(extension.oid == SGX_EXTENSION for extension in extensions)
    if has_sgx is not role.sgx_extension:
        said = f"the SGX extension {SGX_EXTENSION.dotted_string}"
        found, expected = (f"one {'with' if has else 'without'} {said}" for has in (has_sgx, role.sgx_extension))
        raise UnfitError(found, expected)
    certificates.check_critical(certificate)
    return certificate


def _is_ca(extensions: x509.Extensions) -> bool | None:
    """Whether basic constraints and key usage make it a CA; None if they disagree or one is missing."""
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    said = {constraints.ca, usage.key_cert_sign, usage.crl_sign}
    return said.pop() if len(said) == 1 else None
