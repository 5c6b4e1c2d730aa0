"""Check a quote's signature with the QVL. Never imported by the guest (``dcap_qvl``, ``cryptography``).

`evidence.tdx.chain` first checks that each certificate chain has its exact shape and names, because the library
accepts collateral signed by any certificate below the root. `_precheck` then names what the library would refuse
without a name (times, revocation), and what it does not compare (the PCE id). Then the library checks revocation, QE
report, QE identity, TCB level and the quote's signature against the collateral, at the caller's time. The steps and
their order are those of `QuoteVerifier::verify` in ``Src/AttestationLibrary/src/Verifiers/QuoteVerifier.cpp`` of
intel/SGX-TDX-DCAP-QuoteVerificationLibrary. No policy is applied here; `verify` decides what is acceptable.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privml.base.errors import EvidenceError
from privml.evidence.claims import SignatureFailure, Validity
from privml.evidence.tdx import chain, tcbinfo
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

UP_TO_DATE = "UpToDate"

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
    # The root that the chain names is tried first, and its failure is the one to report.
    anchors = [(INTEL_ROOT_DER, chain.INTEL)]
    if simulated_root is not None:
        anchors.insert(0 if simulated else 1, (simulated_root, chain.SIMULATION))
    failures = []
    for root, naming in anchors:
        try:
            chains = chain.check(_pck_chain(parsed), collateral, root=root, naming=naming)
            for name in ("tcb_info_signature", "qe_identity_signature"):
                chain.read_hex(name, collateral.get(name, ""))
            validity = _precheck(quote[: parsed.signed_length], chains, collateral, now)
            return _verify(parsed, quote, collateral, root, now, validity=validity, simulated=simulated)
        except chain.ChainError as error:
            failures.append(SignatureFailure(error.code, error.found, error.expected, simulated))
        except _RefusedError as error:
            failures.append(SignatureFailure(error.code, error.found, error.expected, simulated))
        except ValueError as error:
            # The library names a revoked TCB level in its message only.
            code = "revoked" if "status is invalid: Revoked" in str(error) else "quote-signature"
            failures.append(SignatureFailure(code, str(error), "a quote that the QVL verifies", simulated))
    return failures[0]


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


class _RefusedError(Exception):
    """The collateral is refused by name. ``code`` is the verdict's refusal code."""

    def __init__(self, code: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.code = code
        self.found = found
        self.expected = expected


def _precheck(signed: bytes, chains: chain.Chains, collateral: Mapping[str, str], now: int) -> tuple[Validity, ...]:
    """Compare collateral and PCK certificate, and the collateral's dates with ``now``; the dates of its parts.

    ``_RefusedError`` for the first part that does not fit, ``ValueError`` for a malformed one.
    """
    tcb_info = tcbinfo.read(collateral.get("tcb_info", ""))
    fmspc, pce_id = _platform_in(chains.quote.certificates[0], signed)
    for name, found, wanted in (("FMSPC", tcb_info.fmspc, fmspc), ("PCE id", tcb_info.pce_id, pce_id)):
        if found != wanted:
            said = f"TCB info for {name} {found.hex()}"
            raise _RefusedError("collateral-platform", said, f"{name} {wanted.hex()}, the platform's")
    revoked = _revoked(chains)
    if revoked:
        raise _RefusedError("revoked", revoked, "certificates that are not revoked")
    parts = (
        tcb_info.validity,
        tcbinfo.read_qe_identity(collateral.get("qe_identity", "")),
        *(_list_validity(name, chains.lists[name]) for name in sorted(chain.CRL_ISSUERS)),
    )
    for part in parts:
        if part.issued > now:
            found_date = f"{part.name} issued {_date(part.issued)}"
            raise _RefusedError("collateral-future", found_date, f"at most {_date(now)}, the caller's time")
        if part.expires < now:
            found_date = f"{part.name} valid to {_date(part.expires)}"
            raise _RefusedError("collateral-expired", found_date, f"at least {_date(now)}, the caller's time")
    return parts


_PLATFORMS: dict[bytes, tuple[bytes, bytes]] = {}
_MAX_PLATFORMS = 32


def _platform_in(pck: bytes, signed: bytes) -> tuple[bytes, bytes]:
    """FMSPC and PCE id in the PCK certificate of the quote ``signed``; remembered by the certificate (DER)."""
    found = _PLATFORMS.get(pck)
    if found is None:
        extension = dcap_qvl.parse_quote(signed).pck_extension()
        if len(_PLATFORMS) >= _MAX_PLATFORMS:
            _PLATFORMS.clear()
        found = _PLATFORMS[pck] = (bytes(extension.fmspc), bytes(extension.pce_id))
    return found


def _revoked(chains: chain.Chains) -> str:
    """The first certificate that its issuer has revoked; empty if there is none."""
    lists = {role: chains.lists[name] for name, role in chain.CRL_ISSUERS.items()}
    for each in (chains.quote, chains.pck_crl, chains.tcb_info, chains.qe_identity):
        for der, role in zip(each.certificates, each.role.chain(), strict=True):
            serial = _serial(der)
            if role.issuer and lists[role.issuer].get_revoked_certificate_by_serial_number(serial) is not None:
                return f"a revoked {role.name} certificate, serial number {serial:x}"
    return ""


@functools.lru_cache(32)
def _serial(certificate: bytes) -> int:
    return x509.load_der_x509_certificate(certificate).serial_number


def _list_validity(name: str, found: x509.CertificateRevocationList) -> Validity:
    if found.next_update_utc is None:
        raise ValueError(f"{name}: a revocation list without an end of its validity")
    return Validity(name, int(found.last_update_utc.timestamp()), int(found.next_update_utc.timestamp()))


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _verify(
    parsed: quotes.Quote,
    quote: bytes,
    collateral: Mapping[str, str],
    root: bytes,
    now: int,
    *,
    validity: tuple[Validity, ...],
    simulated: bool,
) -> QuoteFacts:
    # Pass only what `chain` has checked: the library has a tenth field, a PCK chain that it prefers to the quote's
    # own.
    signed = quote[: parsed.signed_length]
    fields = tuple((name, collateral[name]) for name in collaterals.FIELDS if name in collateral)
    library_collateral = _for_the_library(fields)
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    claims: dict[str, Any] = json.loads(
        dcap_qvl.QuoteVerifier(root).verify_with_policy(signed, library_collateral, now, policy).to_json()
    )
    tcb, pck = claims["tcb"], claims["platform"]["pck"]
    instance = pck["platform_instance_id"]
    # The signature over this text has been checked now.
    text, svns = collateral["tcb_info"], (bytes(pck["cpu_svn"]), pck["pce_svn"])
    launch, current = parsed.body.tee_tcb_svn, parsed.body.tee_tcb_svn2
    levels = (
        *tcbinfo.levels_in(text, *svns, launch),
        tcbinfo.level_of(claims["qe"]["tcb_level"]),
        *((None, None) if current is None else tcbinfo.levels_in(text, *svns, current)),
    )
    if tcb["status"] != UP_TO_DATE and {level.status for level in levels if level is not None} == {UP_TO_DATE}:
        raise ValueError(f"the QVL says {tcb['status']}, but each level of the collateral is {UP_TO_DATE}")
    return QuoteFacts(
        evidence_sha256=hashlib.sha256(signed).hexdigest(),
        root_sha256=hashlib.sha256(root).hexdigest(),
        time=now,
        tcb_status=tcb["status"],
        advisory_ids=tuple(dict.fromkeys((*tcb["advisory_ids"], *tcbinfo.advisories(levels)))),
        platform=levels[0],
        module=levels[1],
        qe=levels[2],
        current_platform=levels[3],
        current_module=levels[4],
        tcb_evaluation_number=min(tcb["eval_data_number"], claims["qe"]["tcb_eval_data_number"]),
        fmspc=bytes(pck["fmspc"]),
        pce_id=bytes(pck["pce_id"]),
        ppid=bytes(pck["ppid"]),
        platform_instance_id=None if instance is None else bytes(instance),
        dynamic_platform=_FLAGS.get(pck["dynamic_platform"]),
        cached_keys=_FLAGS.get(pck["cached_keys"]),
        smt_enabled=_FLAGS.get(pck["smt_enabled"]),
        validity=validity,
        collateral_issued=claims["latest_issue_date"],
        collateral_expires=min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"]),
        claims_simulated=simulated,
    )


@functools.lru_cache(8)
def _for_the_library(fields: tuple[tuple[str, str], ...]) -> Any:
    return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(dict(fields)))


_FLAGS = {"True": True, "False": False}
