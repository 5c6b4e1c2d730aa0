"""Check a quote's signature with the QVL. Never imported by the guest (``dcap_qvl``, ``cryptography``).

`evidence.tdx.chain` first checks that each certificate chain has its exact shape and names, because the library
accepts collateral signed by any certificate below the root. Then the library checks revocation, QE report, QE
identity, TCB level and the quote's signature against the collateral, at the caller's time. Source:
intel/SGX-TDX-DCAP-QuoteVerificationLibrary. No policy is applied here; `verify` decides what is acceptable.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privml.base.errors import EvidenceError
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import chain
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote as quotes
from privml.evidence.tdx.claims import QuoteFacts

INTEL_ROOT_DER = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg"
    "Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT"
    "AlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoM"
    "EUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI"
    "zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxF"
    "P2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl"
    "cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInz"
    "g7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9C"
    "iSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)
"""Intel SGX Root CA (CN=Intel SGX Root CA, valid to 2049-12-31), the only anchor of genuine quotes."""

SIMULATED = b"SIMULATED"
"""The word in every subject of a simulated PKI (`sim.pki`), used only to explain a refusal."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")


def check(
    quote: bytes,
    collateral: Mapping[str, str] | None,
    *,
    now: int,
    simulated_root: bytes | None = None,
) -> QuoteFacts | SignatureFailure:
    """Check a quote against Intel's root and, if given, the root of a simulation (DER).

    ``collateral`` has the nine fields of `evidence.tdx.collateral`; ``now`` is Unix seconds by the caller's clock.
    Returns a failure instead of raising, because a verdict lists every reason; ``EvidenceError`` only for a malformed
    quote.
    """
    parsed = quotes.parse(quote)
    simulated = claims_simulation(parsed)
    if collateral is None:
        wanted = "collateral in the document or from the caller"
        return SignatureFailure("collateral-missing", "none", wanted, simulated)
    anchors = [(INTEL_ROOT_DER, chain.INTEL)]
    if simulated_root is not None:
        anchors.append((simulated_root, chain.SIMULATION))
    failures = []
    for root, naming in anchors:
        try:
            chain.check(_pck_chain(parsed), collateral, root=root, naming=naming)
            for name in ("tcb_info_signature", "qe_identity_signature"):
                chain.read_hex(name, collateral.get(name, ""))
            return _verify(quote[: parsed.signed_length], collateral, root, now, simulated=simulated)
        except chain.ChainError as error:
            failures.append(SignatureFailure(error.code, error.found, error.expected, simulated))
        except ValueError as error:
            failures.append(
                SignatureFailure("quote-signature", str(error), "a quote that the QVL verifies", simulated)
            )
    # Report the failure for the root that the chain names.
    return failures[-1 if simulated else 0]


def claims_simulation(parsed: quotes.Quote) -> bool:
    """True if any certificate in the quote contains the word SIMULATED. This is a claim, not a proof.

    It only searches for the bytes and parses nothing: the certificates are untrusted until their chain is checked.
    """
    if parsed.signature.certificate_type != quotes.CERT_PEM_CHAIN:
        return False
    for block in _PEM.findall(parsed.signature.certificates):
        with contextlib.suppress(ValueError):
            if SIMULATED in base64.b64decode(block):
                return True
    return False


MAX_ROOT = 64 * 1024
"""Bytes of a root certificate in a file."""


def root_der(pem_or_der: bytes) -> bytes:
    """The DER of a root certificate given as PEM or DER; ``EvidenceError`` if it is neither."""
    if len(pem_or_der) > MAX_ROOT:
        raise EvidenceError(f"root certificate: more than {MAX_ROOT} bytes")
    try:
        if pem_or_der.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(pem_or_der).public_bytes(Encoding.DER)
        return x509.load_der_x509_certificate(pem_or_der).public_bytes(Encoding.DER)
    except ValueError as error:
        raise EvidenceError(f"root certificate: {error}") from error


def _pck_chain(parsed: quotes.Quote) -> bytes:
    kind = parsed.signature.certificate_type
    if kind != quotes.CERT_PEM_CHAIN:
        wanted = f"type {quotes.CERT_PEM_CHAIN}, a PEM chain"
        raise chain.ChainError(chain.QUOTE, f"certification data of type {kind}", wanted)
    return parsed.signature.certificates


def _verify(signed: bytes, collateral: Mapping[str, str], root: bytes, now: int, *, simulated: bool) -> QuoteFacts:
    # Pass only what `chain` has checked: the library has a tenth field, a PCK chain that it prefers to the quote's
    # own.
    fields = {name: collateral[name] for name in collaterals.FIELDS if name in collateral}
    library_collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(fields))
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    claims: dict[str, Any] = json.loads(
        dcap_qvl.QuoteVerifier(root).verify_with_policy(signed, library_collateral, now, policy).to_json()
    )
    tcb, platform, pck = claims["tcb"], claims["platform"], claims["platform"]["pck"]
    instance = pck["platform_instance_id"]
    return QuoteFacts(
        evidence_sha256=hashlib.sha256(signed).hexdigest(),
        root_sha256=hashlib.sha256(root).hexdigest(),
        time=now,
        tcb_status=tcb["status"],
        advisory_ids=tuple(tcb["advisory_ids"]),
        tcb_evaluation_number=min(tcb["eval_data_number"], claims["qe"]["tcb_eval_data_number"]),
        fmspc=bytes(platform["pck"]["fmspc"]),
        ppid=bytes(pck["ppid"]),
        platform_instance_id=None if instance is None else bytes(instance),
        collateral_issued=claims["latest_issue_date"],
        collateral_expires=min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"]),
        claims_simulated=simulated,
    )
