"""Judge a bare quote: check its signature, and compare its values with those that are expected."""

from __future__ import annotations

from collections.abc import Mapping

from privml.base.errors import EvidenceError
from privml.evidence import tees
from privml.evidence.claims import Checked, Claims, SignatureFailure
from privml.evidence.document import Document
from privml.evidence.tdx import claims as tdx
from privml.verify import bare
from privml.verify.bare import Finding, Value
from privml.verify.policy import Policy

TEE = tdx.TEE
"""The TEE of all bare evidence that can be read."""


def judge(
    quote: bytes | None,
    values: tuple[Value, ...],
    policy: Policy,
    *,
    now: int,
    collateral: Mapping[str, str] | None = None,
) -> Finding:
    """Judge a quote as of ``now`` (Unix seconds); ``quote`` is None for values that no quote signs."""
    if quote is None:
        return bare.judge(None, None, policy, values)
    try:
        claims: Claims | None = tees.kind_of(TEE).claims(quote, ())
        checked: Checked = tees.check_signature(
            _alone(quote), TEE, collateral=collateral, now=now, simulated_root=policy.allow_simulated
        )
    except EvidenceError as error:
        claims, checked = None, SignatureFailure("quote-signature", error.message, "a whole quote and nothing else")
    return bare.judge(claims, checked, policy, values)


def _alone(quote: bytes) -> Document:
    """The quote in the form that checks of signatures take; no other part of it is read."""
    nothing = b""
    return Document(nothing, nothing, (), nothing, nothing, nothing, nothing, quote)
