"""Decide whether one key is released to a guest: what the store and the owners' policy say, besides the verdict.

Pure: records in, refusals out. `verify.check` decides whether the guest is the image that it claims to be; here is
what its owners demand. Refusals are records of `verify.verdict`, with the codes in `CODES`. They say what the guest
is, and name the policy by its SHA-256: what else is in it is no business of whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from privml.base.times import time_text
from privml.evidence.claims import Checked, Claims
from privml.evidence.snp import claims as snp
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.tdx import claims as tdx
from privml.evidence.tdx.claims import QuoteFacts
from privml.keybroker.policy import ReleasePolicy
from privml.verify.rules import any_of, refuses
from privml.verify.snptcb import below
from privml.verify.verdict import Outcome, Refusal

MAX_LISTED = 16
"""Advisories of a platform that a refusal lists."""


@dataclass(frozen=True)
class TdxPlatform:
    """What a checked quote proves of the machine: its id (PPID), its TCB evaluation number, and its advisories."""

    id: bytes
    tcb_evaluation: int
    advisories: tuple[str, ...]

    def objections(self, policy: ReleasePolicy) -> Iterator[Refusal]:
        """What the owners object to."""
        name = _named(policy)
        if self.id in policy.denied or (policy.platforms is not None and self.id not in policy.platforms):
            yield Refusal("release-platform", self.id.hex(), f"a machine that {name} allows")
        if self.tcb_evaluation < policy.min_tcb_evaluation:
            yield Refusal("release-tcb-evaluation", str(self.tcb_evaluation), f"at least what {name} demands")
        if set(self.advisories) & set(policy.advisories_denied):
            expected = f"a platform without those that {name} denies"
            yield Refusal("release-advisory", _listed(self.advisories), expected)


@dataclass(frozen=True)
class SnpPlatform:
    """What a checked report proves of the machine: its id (CHIP_ID, zeros if the host hides it), its TCB versions."""

    id: bytes
    facts: ReportFacts

    def objections(self, policy: ReleasePolicy) -> Iterator[Refusal]:
        """What the owners object to. A hidden chip could be any, so it is refused where the owners name chips."""
        name, wanted = _named(policy), policy.snp
        if wanted is None:
            yield Refusal("release-platform", "an SEV-SNP guest", f"a machine that {name} allows")
            return
        named = wanted.chips is not None or wanted.denied
        listed = wanted.chips is None or self.id in wanted.chips
        if named and (not any(self.id) or not listed or self.id in wanted.denied):
            yield Refusal("release-platform", _chip(self.id), f"a machine that {name} allows")
        lower = next(below(self.facts, wanted.min_tcb), None)
        if lower is not None:
            yield Refusal("release-tcb", f"{self.facts.product}: {lower[0]}", f"a TCB version that {name} allows")
        if not wanted.allow_unmeasured_acpi:
            yield Refusal("release-acpi", "ACPI tables of the host", f"a guest that {name} allows")


Platform = TdxPlatform | SnpPlatform


def _of_quote(_: Claims, checked: Checked | None) -> Platform | None:
    if not isinstance(checked, QuoteFacts):
        return None
    return TdxPlatform(checked.ppid, checked.tcb_evaluation_number, checked.advisory_ids)


def _of_report(claims: Claims, checked: Checked | None) -> Platform | None:
    return SnpPlatform(claims.fields["chip"], checked) if isinstance(checked, ReportFacts) else None


PLATFORMS: Mapping[str, Callable[[Claims, Checked | None], Platform | None]] = {
    tdx.TEE: _of_quote,
    snp.TEE: _of_report,
}
"""For each TEE, what its signature proves of the machine; None if the signature is not valid."""


@dataclass(frozen=True)
class Wanted:
    """A key that is asked for, and what the store has of it: nothing, or its policy, state and count of releases."""

    resource: str
    generation: int
    known: bool
    retired: bool = False
    policy: ReleasePolicy | None = None
    released: int = 0


@dataclass(frozen=True)
class Asking:
    """One key, the guest that asks for it, and when. ``image`` is the SHA-256 of the predicate it was compared with.

    ``platform`` is None for a machine of a TEE that is not in `PLATFORMS`, about which a policy can say nothing.
    ``development`` says whether the store may release to simulated guests.
    """

    wanted: Wanted
    outcome: Outcome
    image: bytes
    platform: Platform | None
    now: int
    development: bool


@refuses(
    {
        "release-resource": "this broker has no such resource or generation",
        "release-retired": "the owner retired this generation of the key",
        "release-policy": "no policy of the owners says who gets the key",
    }
)
def key(asking: Asking) -> Iterator[Refusal]:
    """Check that the key is there and has a policy."""
    wanted = asking.wanted
    name = where_of(wanted)
    if not wanted.known:
        yield Refusal("release-resource", name, "a resource and generation of this broker")
    elif wanted.retired:
        yield Refusal("release-retired", name, "a generation that is still released")
    elif wanted.policy is None:
        yield Refusal("release-policy", "no policy", "one that enough owners signed")


@refuses(
    {
        "release-expired": "the owners' policy has ended",
        "release-image": "the owners' policy does not name this image",
        "release-platform": "the owners' policy does not allow this machine",
        "release-tcb-evaluation": "the platform was judged with older TCB data than the owners' policy demands",
        "release-advisory": "an advisory that the owners' policy denies applies to the platform",
        "release-tcb": "a TCB version of the SEV-SNP machine is lower than the owners' policy demands",
        "release-acpi": "the owners' policy does not accept the host's unmeasured ACPI tables of an SEV-SNP guest",
        "release-limit": "the key was released as often as the owners' policy allows",
        "release-simulated": "the evidence is simulated, and store and policy do not both allow it",
    }
)
def policy(asking: Asking) -> Iterator[Refusal]:
    """Check the guest against the owners' policy."""
    found = asking.wanted.policy
    if found is None:
        return
    name = _named(found)
    if asking.now > found.not_after:
        yield Refusal("release-expired", f"now {time_text(asking.now)}", f"before {time_text(found.not_after)}")
    if asking.image not in found.images:
        yield Refusal("release-image", asking.image.hex(), f"an image of {name}")
    if asking.platform is None:
        yield Refusal("release-platform", "a machine of another TEE", f"this broker judges {any_of(PLATFORMS)} only")
    else:
        yield from asking.platform.objections(found)
    if found.max_releases is not None and asking.wanted.released >= found.max_releases:
        yield Refusal("release-limit", "no release is left", f"at most as many as {name} allows")
    if asking.outcome is Outcome.ACCEPTED_SIMULATED and not (found.simulated and asking.development):
        expected = "genuine hardware" if not found.simulated else "a store made with --development"
        yield Refusal("release-simulated", "simulated evidence", expected)


def _named(policy: ReleasePolicy) -> str:
    return f"policy {policy.sha256.hex()}"


def _listed(advisories: Sequence[str]) -> str:
    more = len(advisories) - MAX_LISTED
    return ", ".join(advisories[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _chip(chip: bytes) -> str:
    return f"chip {chip.hex()}" if any(chip) else "a chip that the host hides"


CODES: Mapping[str, str] = {**key.codes, **policy.codes}
"""Every code of this module and what it means."""


def where_of(wanted: Wanted) -> str:
    """How refusals name a key."""
    return f"{wanted.resource} generation {wanted.generation}"


def decide(asking: Asking) -> tuple[Refusal, ...]:
    """Why the key is not released; empty if it is, provided that the guest was accepted."""
    where = where_of(asking.wanted)
    found = (*key(asking), *policy(asking))
    return tuple(Refusal(each.code, each.got, each.expected, each.where or where) for each in found)
