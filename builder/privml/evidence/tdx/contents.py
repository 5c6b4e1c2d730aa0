"""What collateral says: its platform, and its parts with their issuers and dates. Never imported by the guest.

Everything is read from bytes that the anchor's certificates signed, so that collateral can be judged without a quote:
before it is stored, and again when it is used. Layouts: Intel PCS API v4, TCB info v3 and QE identity v2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import loads
from privml.evidence.claims import Validity
from privml.evidence.tdx import chain, tcbinfo
from privml.evidence.tdx.platform import Platform, pck_ca

TCB_INFO = "TCB info"
QE_IDENTITY = "QE identity"

_LISTS = {"pck_crl": "PCK revocation list", "root_ca_crl": "root revocation list"}


@dataclass(frozen=True)
class Part:
    """A part of the collateral: its name, the common name of its issuer, and its dates in Unix seconds."""

    name: str
    issuer: str
    issued: int
    expires: int


@dataclass(frozen=True)
class Contents:
    """Collateral signed below an anchor. ``evaluation_number`` is the lower one of TCB info and QE identity."""

    platform: Platform
    evaluation_number: int
    parts: tuple[Part, ...]

    @property
    def expires_first(self) -> Part:
        """The part that expires first; the collateral is unusable from then on."""
        return min(self.parts, key=lambda part: part.expires)

    @property
    def age(self) -> tuple[int, ...]:
        """Evaluation number, then issue dates: what is newer in any and older in none is newer collateral."""
        return (self.evaluation_number, *(part.issued for part in self.parts[:4]))

    def older_than(self, other: Contents) -> bool:
        """True if any number or date is lower than in ``other``."""
        return any(mine < theirs for mine, theirs in zip(self.age, other.age, strict=True))

    def check_time(self, now: int) -> None:
        """Raise ``Refused`` if a part is not valid at ``now`` (Unix seconds)."""
        for part in self.parts:
            if now > part.expires:
                raise Refused(f"collateral-expired: {part.name}: valid to {date(part.expires)}, now is {date(now)}")
            if now < part.issued:
                raise Refused(f"collateral-future: {part.name}: issued {date(part.issued)}, now is {date(now)}")


def read(collateral: Mapping[str, str], *, root: bytes, naming: chain.Naming) -> Contents:
    """Read collateral that the anchor vouches for. ``Refused`` if it does not, ``EvidenceError`` if it is malformed.

    ``root`` is the DER of the anchor, ``naming`` its names. Dates are read and not judged.
    """
    try:
        chains = chain.check_collateral(collateral, root=root, naming=naming)
        tcb_info = _signed(collateral, "tcb_info", chains.tcb_info)
        qe_identity = _signed(collateral, "qe_identity", chains.qe_identity)
    except chain.ChainError as error:
        raise Refused(f"{error.code}: {error.found}, expected {error.expected}") from error
    for name, found, wanted in (("tcb_info", tcb_info, "TDX"), ("qe_identity", qe_identity, "TD_QE")):
        if found.get("id") != wanted:
            raise EvidenceError(f"{name}.id: got `{str(found.get('id'))[:40]}`, expected `{wanted}`")
    numbers = [_integer(found, name) for found, name in ((tcb_info, "tcb_info"), (qe_identity, "qe_identity"))]
    ca = x509.load_der_x509_certificate(chains.pck_crl.certificates[0])
    try:
        read_tcb_info = tcbinfo.read(collateral["tcb_info"])
        qe_validity = tcbinfo.read_qe_identity(collateral["qe_identity"])
    except ValueError as error:
        raise EvidenceError(str(error)) from error
    parts = (
        _json_part(TCB_INFO, read_tcb_info.validity, chains.tcb_info),
        _json_part(QE_IDENTITY, qe_validity, chains.qe_identity),
        *(_list_part(name, chains.lists[field]) for field, name in _LISTS.items()),
        *_certificates(chains),
    )
    return Contents(Platform.of(read_tcb_info.fmspc.hex(), pck_ca(ca, naming)), min(numbers), parts)


def date(seconds: int) -> str:
    """Unix seconds as ``2026-11-29 04:00 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _signed(collateral: Mapping[str, str], name: str, signer: chain.Chain) -> dict[str, Any]:
    """The JSON object of a field, if the first certificate of ``signer`` signed its bytes."""
    text = collateral.get(name, "").encode(errors="replace")
    signature = chain.read_hex(f"{name}_signature", collateral.get(f"{name}_signature", ""))
    key = x509.load_der_x509_certificate(signer.certificates[0]).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    if len(signature) != 64:
        raise Refused(f"collateral-signature: {name}_signature has {len(signature)} bytes, expected 64")
    numbers = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    try:
        key.verify(encode_dss_signature(*numbers), text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Refused(f"collateral-signature: {name} is not signed by the certificate that comes with it") from error
    value = loads(text, what=name)
    if not isinstance(value, dict):
        raise EvidenceError(f"{name}: expected an object")
    return value


def _integer(found: Mapping[str, Any], name: str) -> int:
    number = found.get("tcbEvaluationDataNumber")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise EvidenceError(f"{name}.tcbEvaluationDataNumber: expected a number")
    return number


def _json_part(name: str, found: Validity, signer: chain.Chain) -> Part:
    issuer = _common_name(x509.load_der_x509_certificate(signer.certificates[0]).subject)
    return Part(name, issuer, found.issued, found.expires)


def _list_part(name: str, found: x509.CertificateRevocationList) -> Part:
    expires = found.next_update_utc
    if expires is None:
        raise EvidenceError(f"{name}: expected the time of the next update")
    return Part(name, _common_name(found.issuer), int(found.last_update_utc.timestamp()), int(expires.timestamp()))


def _certificates(chains: chain.CollateralChains) -> Iterator[Part]:
    """The certificates above the signed parts, each once; without the root, which the caller named."""
    for der in dict.fromkeys(each.certificates[0] for each in (chains.tcb_info, chains.qe_identity, chains.pck_crl)):
        found = x509.load_der_x509_certificate(der)
        first, last = (int(each.timestamp()) for each in (found.not_valid_before_utc, found.not_valid_after_utc))
        yield Part(f"certificate {_common_name(found.subject)}", _common_name(found.issuer), first, last)


def _common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
