"""Judge a bare quote or report: check its signature, and compare its values with those that are expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.evidence import tees
from privml.evidence.claims import Checked, Claims, SignatureFailure
from privml.evidence.document import Document
from privml.evidence.snp import claims as snp
from privml.evidence.tdx import claims as tdx
from privml.statement.launch import MeasuredLaunch
from privml.verify import bare
from privml.verify.bare import Finding, Value
from privml.verify.policy import Policy

_MALFORMED: Mapping[str, tuple[str, str]] = {
    tdx.TEE: ("quote-signature", "a whole quote and nothing else"),
    snp.TEE: ("report-signature", "a whole report, and at most a chain of certificates"),
}
"""For each TEE the refusal code of malformed evidence, and what was expected."""


@dataclass(frozen=True)
class Evidence:
    """A quote or report of ``tee`` without a document, and the certificates (DER) that a report comes with.

    ``data`` is None for values that nothing signs.
    """

    tee: str
    data: bytes | None
    certificates: tuple[bytes, ...] = ()

    @property
    def document(self) -> Document:
        """It in the form that checks of signatures take; no other part of the document is read."""
        nothing, data = b"", self.data or b""
        return Document(
            nothing, nothing, (), nothing, nothing, nothing, nothing, data, certificates=self.certificates
        )


def judge(
    evidence: Evidence,
    values: tuple[Value, ...],
    policy: Policy,
    *,
    now: int,
    collateral: Mapping[str, str] | None = None,
    launch: MeasuredLaunch | None = None,
) -> Finding:
    """Judge evidence as of ``now`` (Unix seconds); ``launch`` is the predicted one whose values are compared."""
    if evidence.data is None:
        return bare.judge(None, None, policy, values)
    try:
        claims: Claims | None = tees.kind_of(evidence.tee).claims(evidence.data, evidence.certificates)
        checked: Checked = tees.check_signature(
            evidence.document, evidence.tee, collateral=collateral, now=now, simulated_root=policy.allow_simulated
        )
    except EvidenceError as error:
        code, expected = _MALFORMED[evidence.tee]
        claims, checked = None, SignatureFailure(code, error.message, expected)
    return bare.judge(claims, checked, policy, values, launch)
