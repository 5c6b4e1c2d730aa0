"""Roles of NVIDIA's certificates, and reading a chain that has exactly the certificates of its roles.

Used for the chains of devices and of reference values. A certificate that two chains share is verified once: the
`Verified` of a judgement remembers who signed what.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privml.evidence import certificates
from privml.evidence.certificates import UnfitError, name_text, sha256

COMMON_NAME = NameOID.COMMON_NAME
ORGANIZATION = NameOID.ORGANIZATION_NAME
COUNTRY = NameOID.COUNTRY_NAME
STATE = NameOID.STATE_OR_PROVINCE_NAME
LOCALITY = NameOID.LOCALITY_NAME
SERIAL = NameOID.SERIAL_NUMBER

SIGNS_DATA = frozenset({"digital_signature"})
SIGNS_CERTIFICATES = frozenset({"key_cert_sign"})
SIGNS_CERTIFICATES_AND_LISTS = frozenset({"key_cert_sign", "crl_sign"})
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_HASH = "sha384"


@dataclass(frozen=True)
class Naming:
    """How an authority names its certificates: what comes before common names, and its organisations."""

    prefix: str
    organization: str
    root_organization: str


NVIDIA = Naming("", "NVIDIA Corporation", "NVIDIA")
SIMULATION = Naming(
    "SIMULATED privml-build ", "SIMULATED, anybody can forge this", "SIMULATED, anybody can forge this"
)


@dataclass(frozen=True)
class Role:
    """The role of a certificate.

    ``subject`` are its name's parts in order, each a pattern; ``usages`` is exactly its key usage. ``ca`` is the
    value of its basic constraints, None if it has none.
    """

    name: str
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...]
    usages: frozenset[str]
    ca: bool | None

    def fits(self, subject: x509.Name, naming: Naming) -> bool:
        """True if ``subject`` has exactly the parts of this role under ``naming``."""
        parts = list(subject)
        if len(parts) != len(self.subject) or any(len(rdn) != 1 for rdn in subject.rdns):
            return False
        wanted = ((oid, _pattern(oid, pattern, naming)) for oid, pattern in self.subject)
        return all(
            part.oid == oid and isinstance(part.value, str) and re.fullmatch(pattern, part.value)
            for part, (oid, pattern) in zip(parts, wanted, strict=True)
        )


def _pattern(oid: x509.ObjectIdentifier, pattern: str, naming: Naming) -> str:
    if oid == COMMON_NAME:
        return re.escape(naming.prefix) + pattern
    return re.escape(getattr(naming, pattern)) if oid == ORGANIZATION else pattern


@dataclass
class Verified:
    """Certificates already verified in one judgement, by their DER and their issuer's."""

    found: dict[tuple[bytes, bytes], x509.Certificate] = field(default_factory=dict)

    def issued(self, der: bytes, issuer: x509.Certificate | None, issuer_der: bytes, wanted: str) -> x509.Certificate:
        """The certificate ``der`` if ``issuer`` signed it; ``UnfitError`` otherwise."""
        key = (der, issuer_der)
        if key not in self.found:
            self.found[key] = certificates.issued(der, issuer, wanted)
        return self.found[key]


def read(
    encoded: Sequence[bytes],
    roles: Sequence[Role],
    *,
    root: bytes,
    naming: Naming,
    now: int | None,
    verified: Verified,
) -> tuple[x509.Certificate, ...]:
    """The certificates of a chain, the root last, if they are exactly those of ``roles``; ``UnfitError`` otherwise.

    Also checks that each is valid at ``now`` (Unix seconds; None: at any time) and has a P-384 key and a SHA-384
    signature.
    """
    if len(encoded) != len(roles):
        raise UnfitError(f"{len(encoded)} certificates", f"{len(roles)}: {', '.join(role.name for role in roles)}")
    if encoded[-1] != root:
        found = f"a last certificate with SHA-256 {sha256(encoded[-1])}"
        raise UnfitError(found, f"the root certificate {sha256(root)}")
    chain: list[x509.Certificate] = []
    moment = None if now is None else datetime.fromtimestamp(now, UTC)
    # From the root down, so that only certificates signed by the authority are interpreted.
    for number in range(len(roles) - 1, -1, -1):
        role, der = roles[number], encoded[number]
        above = encoded[number + 1] if chain else der
        try:
            wanted = f"a {role.name} certificate issued by the next one"
            certificate = verified.issued(der, chain[-1] if chain else None, above, wanted)
            _check(certificate, role, naming, moment)
        except UnfitError as error:
            place = f"certificate {number + 1} of {len(roles)} is {error.found}"
            raise UnfitError(place, error.expected) from error
        chain.append(certificate)
    return tuple(reversed(chain))


def _check(certificate: x509.Certificate, role: Role, naming: Naming, moment: datetime | None) -> None:
    if not role.fits(certificate.subject, naming):
        wanted = ", ".join(_pattern(oid, pattern, naming) for oid, pattern in role.subject)
        raise UnfitError(name_text(certificate.subject), f"the name of a {role.name}: {wanted}")
    ca, usages = _constraints(certificate.extensions)
    if ca is not role.ca or usages != role.usages:
        words = {True: "a CA", False: "not a CA", None: "without basic constraints"}
        found, expected = (
            f"one {words[kind]} for {', '.join(sorted(uses)) or 'no use'}"
            for kind, uses in ((ca, usages), (role.ca, role.usages))
        )
        raise UnfitError(found, expected)
    certificates.check_critical(certificate)
    key, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UnfitError("one with another kind of key", "a P-384 key")
    if algorithm is None or algorithm.name != _HASH:
        raise UnfitError(f"signed with {algorithm.name if algorithm else 'no hash'}", _HASH)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if moment is not None and not begin <= moment <= end:
        raise UnfitError(f"valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}", f"valid at {moment:%Y-%m-%dT%H:%M:%SZ}")


def _constraints(extensions: x509.Extensions) -> tuple[bool | None, frozenset[str]]:
    """Basic constraints (None if absent) and the key usages."""
    ca: bool | None = None
    usages: frozenset[str] = frozenset()
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            ca = extension.value.ca
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
            usages = frozenset(name for name in _USAGES if getattr(usage, name))
    return ca, usages
