"""Fetch Intel's collateral of a platform from a service: Intel's PCS, or a PCCS, which caches it.

Source of routes and headers: Intel PCS API v4 (TDX), and intel/SGXDataCenterAttestationPrimitives (folder ``pccs``).
What a service sends is untrusted. Its bytes are converted to the nine fields of `evidence.tdx.collateral`, but what
Intel signed is never serialised again. The service learns which kind of platform is asked for, and nothing else.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.parse
from dataclasses import dataclass

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError
from privml.base.http import Connections, base_address
from privml.base.strictjson import loads
from privml.base.wayout import environment_way_out
from privml.client.requests import Answer, Requests
from privml.evidence.tdx.collateral import MAX_FIELD
from privml.evidence.tdx.platform import Platform

INTEL_PCS = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""The only collateral that Intel's PCS does not serve; this is the address in Intel's root certificate."""

UPDATES = ("early", "standard")
"""Intel publishes a TCB recovery as ``early`` on the day of disclosure, as ``standard`` up to a year later."""

TIMEOUT = 30.0
SGX = "/sgx/certification/v4"
TDX = "/tdx/certification/v4"
PCK_CRL_CHAIN = "SGX-PCK-CRL-Issuer-Chain"
TCB_INFO_CHAIN = "TCB-Info-Issuer-Chain"
OLD_TCB_INFO_CHAIN = "SGX-TCB-Info-Issuer-Chain"  # sent by some PCCS
QE_IDENTITY_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
_SUFFIXES = (SGX, TDX)
_ABSENT = "the service does not know this platform, or has no early TCB info for it (--update standard)"
_HEX = re.compile(rb"[0-9a-fA-F]+")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Service:
    """A service by its address, without a final slash; ``root_crl`` is another address for the root's list."""

    base: str
    root_crl: str | None = None

    @property
    def name(self) -> str:
        """Its host and port, for messages."""
        return urllib.parse.urlsplit(self.base).netloc


def service(address: str = INTEL_PCS) -> Service:
    """The service at an http(s) address, also one that ends with a route's prefix; ``UsageError`` for another one."""
    base = base_address(address)
    for suffix in _SUFFIXES:
        base = base.removesuffix(suffix)
    return Service(base, INTEL_ROOT_CRL if base == INTEL_PCS else None)


def fetch(
    where: Service, platform: Platform, *, root: bytes, update: str = UPDATES[0], timeout: float = TIMEOUT
) -> dict[str, str]:
    """Fetch the nine fields for ``platform``, all within ``timeout`` seconds. They are not checked yet.

    ``root`` is the DER of the anchor, which goes last in each chain. ``HostError`` if the service does not answer or
    has none, ``EvidenceError`` if it sends something else.
    """
    with (
        Cutoff(timeout) as deadline,
        Connections(environment_way_out(), deadline=deadline, redirects=0) as connections,
    ):
        requests = Requests(connections, deadline, MAX_FIELD, absent=_ABSENT)
        crl = requests.get(f"{where.base}{SGX}/pckcrl?ca={platform.ca}&encoding=der")
        tcb = requests.get(f"{where.base}{TDX}/tcb?fmspc={platform.fmspc.upper()}&update={update}")
        identity = requests.get(f"{where.base}{TDX}/qe/identity?update={update}")
        root_crl = requests.get(where.root_crl or f"{where.base}{SGX}/rootcacrl")
    try:
        return _fields(crl, tcb, identity, root_crl, root)
    except EvidenceError as error:
        raise EvidenceError(f"{where.name}: {error.message}") from error


def _fields(crl: Answer, tcb: Answer, identity: Answer, root_crl: Answer, root: bytes) -> dict[str, str]:
    tcb_info, tcb_signature = signed_member(tcb.body, "tcbInfo")
    qe_identity, qe_signature = signed_member(identity.body, "enclaveIdentity")
    return {
        "pck_crl_issuer_chain": issuer_chain(crl.header(PCK_CRL_CHAIN), root),
        "root_ca_crl": revocation_list(root_crl.body, "root_ca_crl"),
        "pck_crl": revocation_list(crl.body, "pck_crl"),
        "tcb_info_issuer_chain": issuer_chain(tcb.header(TCB_INFO_CHAIN, OLD_TCB_INFO_CHAIN), root),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": issuer_chain(identity.header(QE_IDENTITY_CHAIN), root),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_signature,
    }


def signed_member(body: bytes, member: str) -> tuple[str, str]:
    """The exact text of ``member`` in ``{"MEMBER": ..., "signature": hex}``, and the signature in lower case.

    The signature is over the bytes as sent, so the text is cut out of the body, never written again.
    """
    value = loads(body, what=member, limit=MAX_FIELD)
    if not isinstance(value, dict) or set(value) != {member, "signature"} or not isinstance(value[member], dict):
        raise EvidenceError(f"{member}: expected an object with `{member}` and `signature`")
    signature = value["signature"]
    if not isinstance(signature, str) or not _HEX.fullmatch(signature.encode()):
        raise EvidenceError(f"{member}: the signature is not in hex")
    return _member_text(body.decode(), member), signature.lower()


def _member_text(text: str, member: str) -> str:
    """The text of a member's value. ``text`` is known to be an object with unique names."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        name, at = decoder.raw_decode(text, _after_space(text, at))
        start = _after_space(text, _after_space(text, at) + 1)  # behind the colon
        _, at = decoder.raw_decode(text, start)
        if name == member:
            return text[start:at]
        at = _after_space(text, at) + 1  # behind the comma


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def certificates_in(text: str, what: str, form: str = "PEM") -> list[bytes]:
    """The certificates (DER) in a PEM text in any spelling; ``EvidenceError`` if it has none or anything else."""
    blocks = _PEM.findall(text)
    if not blocks or _PEM.sub("", text).strip():
        raise EvidenceError(f"{what}: expected {form} certificates and nothing else")
    try:
        return [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
    except ValueError as error:
        raise EvidenceError(f"{what}: a certificate is not in base64 ({error})") from error


def issuer_chain(header: str, root: bytes) -> str:
    """A percent-encoded PEM chain in the canonical spelling, with the certificate ``root`` last."""
    found = certificates_in(urllib.parse.unquote(header), "issuer chain", "percent-encoded PEM")
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in sorted(found, key=lambda der: der == root))


def revocation_list(body: bytes, name: str) -> str:
    """A revocation list in lower-case hex, from DER (Intel's PCS) or hex of either case (PCCS)."""
    # `0` begins DER and hex text, but a list of at least 128 bytes has a long length, whose byte is not ASCII.
    if len(body) > 1 and body[0] == 0x30 and body[1] >= 0x80:
        return body.hex()
    stripped = body.strip()
    if not _HEX.fullmatch(stripped) or len(stripped) % 2:
        raise EvidenceError(f"{name}: neither DER nor hex")
    return stripped.decode().lower()
