"""The kind of platform that a quote is from, which selects its collateral. Never imported by the guest.

Intel publishes TCB info for each FMSPC (a processor's family, model, stepping, platform type and custom SKU), and one
revocation list for each of the two authorities that issue PCK certificates. Layout of the extension: Intel "SGX PCK
Certificate and CRL Profile" 1.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from privml.base.errors import EvidenceError
from privml.evidence.tdx import chain
from privml.evidence.tdx import quote as quotes

CAS = {"PCK Platform CA": "platform", "PCK Processor CA": "processor"}
"""End of the common name of a PCK authority -> its name in the services' routes."""

_FMSPC = re.compile(r"[0-9a-fA-F]{12}")
# The OID 1.2.840.113741.1.13.1.4 and the head of an OCTET STRING of 6 bytes: the FMSPC follows.
_ENTRY = bytes.fromhex("060a2a864886f84d010d01040406")


@dataclass(frozen=True)
class Platform:
    """A kind of platform: FMSPC in lower-case hex, and the authority of its PCK certificates (a value of `CAS`)."""

    fmspc: str
    ca: str

    @classmethod
    def of(cls, fmspc: str, ca: str) -> Platform:
        """The platform with an FMSPC in hex of either case; ``EvidenceError`` for anything else."""
        if not _FMSPC.fullmatch(fmspc):
            raise EvidenceError(f"FMSPC `{fmspc[:40]}`: expected 12 hex digits")
        if ca not in CAS.values():
            raise EvidenceError(f"PCK CA `{ca[:40]}`: expected {' or '.join(CAS.values())}")
        return cls(fmspc.lower(), ca)

    def __str__(self) -> str:
        return f"FMSPC {self.fmspc.upper()}, {self.ca} CA"


def platform_of(quote: bytes, *, root: bytes, naming: chain.Naming) -> Platform:
    """The platform that the certificates in ``quote`` name.

    ``EvidenceError`` for a malformed quote, ``ChainError`` if its certificates do not lead to ``root``.
    """
    signature = quotes.parse(quote).signature
    if signature.certificate_type != quotes.CERT_PEM_CHAIN:
        raise chain.ChainError(chain.QUOTE, f"certification data of type {signature.certificate_type}", "a PEM chain")
    found = chain.read(chain.QUOTE, signature.certificates, root=root, naming=naming)
    pck, ca = (x509.load_der_x509_certificate(der) for der in found.certificates[:2])
    extension = next(each.value for each in pck.extensions if each.oid == chain.SGX_EXTENSION)
    assert isinstance(extension, x509.UnrecognizedExtension)
    parts = extension.value.split(_ENTRY)
    if len(parts) != 2:
        raise EvidenceError(f"PCK certificate: {len(parts) - 1} FMSPCs, expected one")
    return Platform.of(parts[1][:6].hex(), pck_ca(ca, naming))


def pck_ca(certificate: x509.Certificate, naming: chain.Naming) -> str:
    """Which of the two PCK authorities ``certificate`` belongs to; its name must have been checked."""
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    return CAS[name.removeprefix(naming.prefix)]
