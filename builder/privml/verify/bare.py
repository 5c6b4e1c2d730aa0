"""Evidence without a document: a bare quote or report. It proves no key and no freshness, so it is never accepted.

What can be said of it: whether the platform signed it and passes the policy, and whether its values are the expected
ones. The refusal codes are those of the TEE's own checks (`verify.rules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from privml.base.errors import EXIT_ACCEPTED_SIMULATED, Differs, Refused
from privml.evidence.claims import Checked, Claims, SignatureFacts, SignatureFailure
from privml.statement.launch import MeasuredLaunch
from privml.verify import policyfield
from privml.verify.check import RULES
from privml.verify.policy import Policy
from privml.verify.rules import TeeCase
from privml.verify.verdict import Refusal

REPORT_DATA = "report data"
_UNCHECKED = "collateral-missing"


class Origin(StrEnum):
    """Who vouches for the values: the vendor, a key that the caller named, or a simulation; or nobody, because the
    signature is refused, or none was checked.
    """

    GENUINE = "genuine"
    NAMED_KEY = "named-key"
    SIMULATED = "simulated"
    REFUSED = "refused"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class Value:
    """One value of the evidence and those that are expected of it."""

    name: str
    got: bytes
    expected: tuple[bytes, ...]

    @property
    def equal(self) -> bool:
        """True if it is one of the expected values."""
        return self.got in self.expected

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "name": self.name,
            "got": self.got.hex(),
            "expected": [value.hex() for value in self.expected],
            "equal": self.equal,
        }


@dataclass(frozen=True)
class Finding:
    """The judgement of bare evidence.

    ``refusals`` are those of the signature and of the policy for the platform, the guest and the predicted launch;
    ``relaxed`` those that only the policy's relaxations prevented. ``values`` are those that were compared; ``notes``
    are the TEE's.
    """

    origin: Origin
    refusals: tuple[Refusal, ...] = ()
    values: tuple[Value, ...] = ()
    notes: tuple[str, ...] = ()
    relaxed: tuple[Refusal, ...] = ()

    @property
    def equal(self) -> bool | None:
        """True if all compared values are equal; None if none was compared."""
        return all(value.equal for value in self.values) if self.values else None

    @property
    def exit_code(self) -> int:
        """0 genuine and equal, 1 differs, 8 refused or not proven, 10 equal but only a simulation."""
        if self.refusals or self.origin in (Origin.REFUSED, Origin.UNPROVEN):
            return Refused.exit_code
        if self.equal is False:
            return Differs.exit_code
        return EXIT_ACCEPTED_SIMULATED if self.origin is Origin.SIMULATED else 0


def judge(
    claims: Claims | None,
    checked: Checked | None,
    policy: Policy,
    values: tuple[Value, ...],
    launch: MeasuredLaunch | None = None,
) -> Finding:
    """Judge evidence with its ``claims`` and the result of checking its signature.

    ``checked`` is None for values without a signature that can be checked, ``claims`` for a malformed quote.
    ``launch`` is the predicted one whose values are compared, which the policy may not accept; None if there is none.
    """
    if checked is None or (isinstance(checked, SignatureFailure) and checked.code == _UNCHECKED):
        origin = Origin.UNPROVEN
    elif isinstance(checked, SignatureFailure) or claims is None:
        origin = Origin.REFUSED
    else:
        genuine = checked.root_sha256 in RULES[claims.tee].genuine_roots
        origin = Origin.GENUINE if genuine else Origin.SIMULATED
    if checked is None:
        return Finding(origin, values=values)
    case = None if claims is None else TeeCase(claims, checked, getattr(policy, claims.tee), launch)
    refusals = tuple(_refusals(case, checked, policy))
    given = {(refusal.code, refusal.got) for refusal in refusals}
    strict = case and replace(case, policy=policyfield.strict(case.policy))
    found = _refusals(strict, checked, policy)
    relaxed = tuple(refusal for refusal in found if (refusal.code, refusal.got) not in given)
    notes = () if case is None else tuple(RULES[case.claims.tee].notes(case))
    return Finding(origin, refusals, values, notes, relaxed)


def _refusals(case: TeeCase[Any] | None, checked: Checked, policy: Policy) -> Iterator[Refusal]:
    if isinstance(checked, SignatureFailure):
        if checked.claims_simulated and policy.allow_simulated is None and checked.code != _UNCHECKED:
            yield Refusal("simulated", "a chain that says SIMULATED", "a chain from the vendor's root")
        else:
            yield Refusal(checked.code, checked.reason, checked.expected)
    if case is None:
        return
    rules = RULES[case.claims.tee]
    if isinstance(checked, SignatureFacts):
        yield from rules.signature(case)
    for check in rules.checks:
        yield from check(case)


def closest(launches: tuple[MeasuredLaunch, ...], registers: Mapping[str, bytes], tee: str) -> MeasuredLaunch | None:
    """The predicted launch of ``tee`` with the most of these ``registers``; None if there is none."""

    def equal(launch: MeasuredLaunch) -> int:
        return sum(value in launch.accepted(register) for register, value in registers.items())

    return max((launch for launch in launches if launch.tee == tee), key=equal, default=None)
