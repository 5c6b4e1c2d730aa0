"""Building blocks of verification: a check with its possible refusals, and the record of a TEE's rules.

A check's codes and meanings are next to the function that uses them; `verify.check.CODES` is the union.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from privml.evidence.claims import Checked, Claims, SignatureFailure
from privml.statement.launch import MeasuredLaunch
from privml.verify.verdict import Refusal

Subject = TypeVar("Subject")
TeePolicy = TypeVar("TeePolicy")

COLLATERAL_CODES: Mapping[str, str] = {
    "collateral-missing": "there is no collateral to check the signature with",
    "collateral-expired": "a part of the collateral has expired",
    "collateral-future": "a part of the collateral is from the future",
    "revoked": "a certificate or the platform's TCB level is revoked",
}
COLLATERAL_AGE: Mapping[str, str] = {
    "collateral-age": "a part of the collateral was issued longer ago than the policy allows"
}
"""Refusal codes that mean the same for every TEE."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A check: its possible refusal codes with their meanings, and its function."""

    codes: Mapping[str, str]
    find: Callable[[Subject], Iterator[Refusal]]

    def __call__(self, subject: Subject) -> Iterator[Refusal]:
        """Run the check; ``ValueError`` for a refusal code that it does not declare."""
        for refusal in self.find(subject):
            if refusal.code not in self.codes:
                raise ValueError(f"refusal code `{refusal.code}` is not one of this check's: {', '.join(self.codes)}")
            yield refusal


def refuses(codes: Mapping[str, str]) -> Callable[[Callable[[Subject], Iterator[Refusal]]], Check[Subject]]:
    """Decorator: turn a function into a `Check` with these codes and meanings."""

    def made(find: Callable[[Subject], Iterator[Refusal]]) -> Check[Subject]:
        return Check(codes, find)

    return made


@dataclass(frozen=True)
class TeeCase(Generic[TeePolicy]):
    """The input of a TEE's own checks: claims, result of the signature check, and that TEE's policy.

    ``launch`` is the predicted one that is compared; None if there is none, as for bare evidence.
    """

    claims: Claims
    signature: Checked
    policy: TeePolicy
    launch: MeasuredLaunch | None = None


def checked_signature(case: TeeCase[TeePolicy], code: str, kind: str) -> Iterator[Refusal]:
    """Refuse evidence whose signature check failed, or (``code``) was of other evidence; ``kind`` names evidence."""
    checked = case.signature
    if isinstance(checked, SignatureFailure):
        yield Refusal(checked.code, checked.reason, checked.expected)
    elif checked.evidence_sha256 != case.claims.evidence_sha256:
        found, wanted = checked.evidence_sha256, case.claims.evidence_sha256
        yield Refusal(code, f"a check of {kind} {found}", f"of {kind} {wanted}")


@dataclass(frozen=True)
class TeeRules(Generic[TeePolicy]):
    """The rules specific to one TEE.

    ``vendor`` owns the ``genuine_roots`` (hex SHA-256 of DER). ``registers`` explains what a different value of each
    register means; the register's name is the code. ``unlogged`` says why a register has no log.
    ``signature`` refuses evidence without a valid signature,
    ``checks`` has all other checks. ``notes`` are lines added to every verdict.
    """

    vendor: str
    genuine_roots: frozenset[str]
    registers: Mapping[str, str]
    unlogged: Mapping[str, str]
    signature: Check[TeeCase[TeePolicy]]
    checks: tuple[Check[TeeCase[TeePolicy]], ...]
    notes: Callable[[TeeCase[TeePolicy]], Iterator[str]]


def any_of(values: Iterable[str]) -> str:
    """Accepted values as text: ``a or b``."""
    return " or ".join(sorted(values))
