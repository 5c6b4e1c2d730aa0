"""The supported TEEs: one record per TEE, selected by the document's header."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.evidence.claims import Checked, Claims
from privml.evidence.document import Document
from privml.evidence.snp import claims as snp
from privml.evidence.snp import collateral as snp_collateral
from privml.evidence.tdx import claims as tdx
from privml.evidence.tdx import collateral as tdx_collateral

SignatureCheck = Callable[[Document, Mapping[str, str] | None, int, bytes | None], Checked]
"""(document, collateral, now, the root of an allowed simulation or None) -> facts, or why there are none."""


@dataclass(frozen=True)
class EvidenceKind:
    """Evidence of one TEE: how to read its claims, and how to check its signature."""

    claims: Callable[[bytes, Sequence[bytes]], Claims]
    check: SignatureCheck


def _check_tdx(
    document: Document, collateral: Mapping[str, str] | None, now: int, simulated_root: bytes | None
) -> Checked:
    # Imported late: only checking signatures needs the QVL and `cryptography`.
    from privml.evidence.tdx import signature

    return signature.check(document.evidence, collateral, now=now, simulated_root=simulated_root)


def _check_snp(
    document: Document, collateral: Mapping[str, str] | None, now: int, simulated_root: bytes | None
) -> Checked:
    from privml.evidence.snp import signature

    return signature.check(
        document.evidence, document.certificates, collateral, now=now, simulated_root=simulated_root
    )


KINDS: Mapping[str, EvidenceKind] = {
    tdx.TEE: EvidenceKind(tdx.read, _check_tdx),
    snp.TEE: EvidenceKind(snp.read, _check_snp),
}


def read_collateral(value: object, what: str) -> dict[str, str]:
    """The fields of one TEE's collateral in a file: the QVL's nine for a quote, or those of a report."""
    if isinstance(value, dict) and value.keys() & set(snp_collateral.FIELDS):
        return snp_collateral.decode(value, what)
    return tdx_collateral.decode(value, what)


def kind_of(tee: str) -> EvidenceKind:
    """The record of ``tee``; ``EvidenceError`` if this version does not support it."""
    if tee not in KINDS:
        raise EvidenceError(
            f"header.tee: `{tee[:20]}` evidence cannot be read by this version, expected {', '.join(KINDS)}"
        )
    return KINDS[tee]


def check_signature(
    document: Document,
    tee: str,
    *,
    collateral: Mapping[str, str] | None,
    now: int,
    simulated_root: bytes | None,
) -> Checked:
    """Check the signature of the document's evidence of ``tee`` at ``now`` (Unix seconds by the caller's clock).

    ``collateral`` replaces the document's; both are untrusted. ``simulated_root`` (DER) is accepted in addition to
    the genuine roots.
    """
    given = (document.collateral or {}).get(tee) if collateral is None else collateral
    return kind_of(tee).check(document, given, now, simulated_root)
