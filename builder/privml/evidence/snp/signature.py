"""Check a report's signature: certificates, revocation, and that they are of the report's chip and TCB version.

No policy is applied here; `verify` decides what is acceptable. Never imported by the guest (``cryptography``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from privml.base.errors import EvidenceError
from privml.base.times import time_text
from privml.evidence.certificates import UnfitError, decode_pem
from privml.evidence.claims import SignatureFailure, Validity
from privml.evidence.snp import chain as chains
from privml.evidence.snp import collateral as fields
from privml.evidence.snp import report as reports
from privml.evidence.snp.chain import Chain, ChainError
from privml.evidence.snp.claims import COMMITTED, CURRENT, LAUNCHED, REPORTED, ReportFacts
from privml.evidence.snp.report import Report
from privml.evidence.snp.tcb import words

MISMATCH = "report-certificate"
SIMULATED = b"SIMULATED"
"""The word in the certificates of a simulation (`sim.amdpki`), used only to explain a refusal."""


def check(
    evidence: bytes,
    certificates: Sequence[bytes],
    collateral: Mapping[str, str] | None,
    *,
    now: int,
    simulated_root: bytes | None = None,
) -> ReportFacts | SignatureFailure:
    """Check a report against AMD's roots and, if given, the root of a simulation (DER).

    ``certificates`` (DER, leaf first) are the document's. ``collateral`` (`evidence.snp.collateral`) replaces them
    and adds a revocation list; both are untrusted. ``now`` is Unix seconds by the caller's clock. Returns a failure
    instead of raising, because a verdict lists every reason; ``EvidenceError`` only for a malformed report.
    """
    parsed = reports.parse(evidence)
    simulated = False
    try:
        given = _certificates(certificates, collateral or {})
        simulated = any(SIMULATED in one for one in given)
        found = chains.verify(parsed, given)
        _check_root(found, simulated_root)
        revocation = _check_revocation(found, collateral or {})
        validity = (*found.validity, *(() if revocation is None else (revocation,)))
        _check_dates(validity, now)
        _check_leaf(parsed, found)
        return ReportFacts(
            evidence_sha256=hashlib.sha256(evidence).hexdigest(),
            root_sha256=found.root_sha256,
            time=now,
            claims_simulated=simulated,
            product=found.leaf.product.name,
            stepping=found.leaf.stepping,
            role=found.leaf.role,
            csp=found.leaf.csp,
            tcbs=_tcbs(parsed, found),
            validity=validity,
            revocation=revocation,
        )
    except ChainError as error:
        return SignatureFailure(error.code, error.found, error.expected, simulated)


def _certificates(given: Sequence[bytes], collateral: Mapping[str, str]) -> tuple[bytes, ...]:
    text = collateral.get(fields.CERTIFICATES)
    if text is None:
        if not given:
            raise ChainError("none", "certificates in the document or from the caller", "collateral-missing")
        return tuple(given)
    try:
        return decode_pem(text.encode(), limit=fields.MAX_FIELD)
    except UnfitError as error:
        raise ChainError(f"report certificates: {error.found}", error.expected) from error


def _check_root(found: Chain, simulated_root: bytes | None) -> None:
    wanted = found.leaf.product.root_sha256
    allowed = {wanted} | ({hashlib.sha256(simulated_root).hexdigest()} if simulated_root is not None else set())
    if found.root_sha256 not in allowed:
        raise ChainError(f"report certificates: root {found.root_sha256}", " or ".join(sorted(allowed)))


def _check_revocation(found: Chain, collateral: Mapping[str, str]) -> Validity | None:
    text = collateral.get(fields.CRL)
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if not data or data.hex() != text:
        raise ChainError("revocation list: another encoding", "lower-case hex", chains.REVOCATION)
    listed = chains.revocations(data, found.root)
    if revoked := found.revoked(listed):
        raise ChainError(revoked, "certificates that are not revoked", "revoked")
    return listed.validity


def _check_dates(validity: Sequence[Validity], now: int) -> None:
    for part in validity:
        if part.issued > now:
            wanted = f"at most {time_text(now)}, the caller's time"
            raise ChainError(f"{part.name} issued {time_text(part.issued)}", wanted, "collateral-future")
        if part.expires < now:
            wanted = f"at least {time_text(now)}, the caller's time"
            raise ChainError(f"{part.name} valid to {time_text(part.expires)}", wanted, "collateral-expired")


def _check_leaf(parsed: Report, found: Chain) -> None:
    """Check that the certificate is of the key, processor, chip and TCB version that the report names."""
    leaf = found.leaf
    key = "none" if parsed.mask_chip_key else reports.SIGNING_KEYS[parsed.signing_key]
    if key != leaf.role:
        raise ChainError(f"a {leaf.role}", f"a {key}, the key that the report names", MISMATCH)
    if parsed.product is not None and parsed.product != leaf.product:
        wanted = f"of a {parsed.product.name}, as in the report"
        raise ChainError(f"a certificate of a {leaf.product.name}", wanted, MISMATCH)
    if leaf.chip_id is not None and leaf.chip_id.ljust(64, b"\0") != parsed.chip_id:
        wanted = parsed.chip_id.hex() if any(parsed.chip_id) else "no chip, which the report does not show"
        raise ChainError(f"a certificate of chip {leaf.chip_id.hex()}", wanted, MISMATCH)
    reported = _tcbs(parsed, found)[REPORTED]
    if leaf.tcb != reported:
        raise ChainError(f"a certificate of TCB {words(leaf.tcb)}", f"{words(reported)}, as reported", MISMATCH)


def _tcbs(parsed: Report, found: Chain) -> dict[str, dict[str, int]]:
    raw = {
        REPORTED: parsed.reported_tcb,
        CURRENT: parsed.current_tcb,
        COMMITTED: parsed.committed_tcb,
        LAUNCHED: parsed.launch_tcb,
    }
    product = found.leaf.product
    try:
        return {name: product.tcb(value, f"{name} TCB") for name, value in raw.items()}
    except EvidenceError as error:
        raise ChainError(error.message, f"a TCB version of a {product.name}", MISMATCH) from error
