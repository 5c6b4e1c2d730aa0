"""Reading certificate chains of any vendor, and checking who issued them.

`evidence.tdx.chain` and `evidence.nvidia.chain` have the roles of each vendor's certificates.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # `cryptography` warns of some malformed fields; raised where warnings are errors
)
"""What `cryptography` raises for malformed certificates, lists and answers."""

KNOWN_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
"""The critical extensions that are checked. A certificate with another one is refused."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----")
# Quoting services, PCK caches and drivers end a chain with zero to two newlines, C strings with a NUL.
_END = re.compile(rb"\n{0,2}\0?")


class UnfitError(ValueError):
    """Certificates that do not fit their place: what was found and what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found = found
        self.expected = expected


def decode_pem(pem: bytes, *, limit: int) -> tuple[bytes, ...]:
    """Decode each PEM block to DER, and refuse every other byte; ``UnfitError``.

    PEM readers skip unknown text, so two of them can see different chains in the same bytes. Only the canonical
    encoding of the certificates is accepted.
    """
    if len(pem) > limit:
        raise UnfitError(f"{len(pem)} bytes", f"at most {limit}")
    try:
        found = tuple(base64.b64decode(block.replace(b"\n", b""), validate=True) for block in _BLOCK.findall(pem))
    except ValueError as error:
        raise UnfitError(f"a PEM block that is not base64 ({error})", "PEM certificates") from error
    written = "".join(ssl.DER_cert_to_PEM_cert(der) for der in found).encode().removesuffix(b"\n")
    if not pem.startswith(written) or not _END.fullmatch(pem, len(written)):
        raise UnfitError(
            "extra bytes around its certificates, or a non-canonical PEM encoding",
            "PEM certificates in lines of 64 characters, one after the other, and nothing else",
        )
    return found


def issued(der: bytes, issuer: x509.Certificate | None, wanted: str) -> x509.Certificate:
    """The certificate ``der`` if ``issuer`` (None: itself) signed it and its fields can be read; ``UnfitError``.

    ``wanted`` says what was expected.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(issuer or certificate)
        _ = certificate.subject, certificate.extensions
        check_bits(der, certificate.signature, wanted)
    except InvalidSignature as error:
        raise UnfitError("not signed with the key of the next one", wanted) from error
    except UnfitError:
        raise
    except UNREADABLE as error:
        raise UnfitError(f"unreadable or not issued by the next one ({error})", wanted) from error
    return certificate


def check_bits(der: bytes, signature: bytes, wanted: str) -> None:
    """Refuse a signature in ``der`` whose last bits are said to be unused; ``UnfitError``.

    A signature is a BIT STRING, which begins with the number of unused bits. `cryptography` ignores that byte, so
    without this check the same certificate would have several encodings.
    """
    if der[der.rfind(signature) - 1] != 0:
        raise UnfitError("one whose signature has unused bits", wanted)


def check_critical(certificate: x509.Certificate) -> None:
    """Refuse a critical extension that is not in `KNOWN_CRITICAL`; ``UnfitError``."""
    for item in certificate.extensions:
        if item.critical and item.oid not in KNOWN_CRITICAL:
            found = f"one with the critical extension {item.oid.dotted_string}"
            raise UnfitError(found, "basic constraints and key usage only")


def name_text(name: x509.Name) -> str:
    """A certificate's name as text, at most 200 characters."""
    return name.rfc4514_string()[:200]


def sha256(der: bytes) -> str:
    """Hex SHA-256 of ``der``."""
    return hashlib.sha256(der).hexdigest()
