"""Checks of a published version: is its index valid now, and does the version still count?

The other codes here are those of `statement.update` and `statement.follow`: with one of them there is no statement to
compare a guest with, so the verdict has only that reason (`unproven`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privml.base.times import time_text
from privml.statement.untrusted import UntrustedError
from privml.verify import policyfield
from privml.verify.anchor import Logged, Published, Unproven
from privml.verify.policyfield import number, setting
from privml.verify.rules import refuses
from privml.verify.verdict import Outcome, Refusal, Verdict

DAY = 86400


@dataclass(frozen=True)
class PublicationPolicy:
    """The caller's policy for published versions."""

    expired_days: int = setting(
        number(0, 3650),
        0,
        "Accept an index whose signed time ended at most so many days ago. It may hide later revocations.",
        relaxes={"index-expired"},
        strictest=min,
    )
    minimum_serial: int = setting(
        number(0, 2**31 - 1),
        0,
        "Lowest accepted serial of a version, if the publishers' own minimum is lower.",
        sets={"version-below-minimum"},
    )

    def __post_init__(self) -> None:
        policyfield.check(self)


@dataclass(frozen=True)
class PublicationCase:
    """The input of the checks."""

    version: Published
    policy: PublicationPolicy


BEFORE = {
    "trust-root": "the root that you trust does not lead to the repository's newest one",
    "index-signatures": "too few of the keys that the root names signed the index",
    "index-digest": "a file of the index is not the one that was signed",
    "index-rollback": "the index is older than one seen before",
    "statement-signatures": "too few publishers signed the statement",
    "statement-digest": "the statement is not the one that the index names",
    "version-unknown": "no such image or version is published",
}
"""Refusals without a statement."""


@refuses(
    {
        **BEFORE,
        "index-expired": "the index is out of date",
        "version-revoked": "the publishers revoked this version",
        "version-below-minimum": "the version is older than the lowest one that still counts",
        "rebuilders": "too few of your rebuilders got the same image",
        "not-logged": "the version is not proven to be in a log of your policy",
        "witnesses": "too few of your witnesses cosigned the log",
        "ci-identity": "the version is not attested by the workflow that you asked for",
    }
)
def publication(case: PublicationCase) -> Iterator[Refusal]:
    """Check expiry, state and serial of the version, who rebuilt it, the log, and CI."""
    version, policy = case.version, case.policy
    for role, end in version.expiries.items():
        if version.as_of >= end + policy.expired_days * DAY:
            yield Refusal(
                "index-expired", f"{role} valid until {time_text(end)}", f"after {time_text(version.as_of)}"
            )
    if not version.state.counts:
        instead = f"; use {version.replaced_by}" if version.replaced_by else ""
        yield Refusal(
            "version-revoked", f"{version.version} is {version.state}: {version.reason}{instead}", "current"
        )
    lowest = max(version.minimum_serial, policy.minimum_serial)
    if version.serial < lowest:
        yield Refusal("version-below-minimum", f"serial {version.serial}", f"at least {lowest}")
    if version.rebuilders_asked is not None and len(version.rebuilders) < version.rebuilders_asked:
        got = ", ".join(version.rebuilders) or "nobody"
        yield Refusal("rebuilders", got, f"at least {version.rebuilders_asked} of your list")
    log = version.log
    if log is not None and log.objection:
        yield Refusal("not-logged", log.objection, "a proof under a checkpoint of a log in your policy")
    elif log is not None and not log.enough:
        yield Refusal("witnesses", ", ".join(log.witnesses) or "nobody", log.asked)
    if (ci := version.ci) is not None and ci.objection:
        yield Refusal("ci-identity", ci.objection, f"an attestation by a workflow of {ci.repository} at {ci.ref}")


@dataclass(frozen=True)
class DemonstrationCase:
    """The input of `demonstration`: is the image published as one, and does the caller allow that?"""

    demonstration: bool
    allowed: bool


@refuses({"demonstration": "the image is published as a demonstration: one person made all keys"})
def demonstration(case: DemonstrationCase) -> Iterator[Refusal]:
    """Check that a demonstration is not taken for a project's publication."""
    if case.demonstration and not case.allowed:
        yield Refusal("demonstration", "a root marked as a demonstration", "a root whose keys several people hold")


def notes(version: Published) -> Iterator[str]:
    """What a caller should know of a version that counts."""
    if version.state.counts and version.state.value != "current":
        instead = f" by {version.replaced_by}" if version.replaced_by else ""
        yield f"{version.version} is {version.state}{instead}" + (f": {version.reason}" if version.reason else "")
    if len(version.signers) == 1:
        yield "one publisher alone signed this version"
    if version.expiries:
        yield f"index valid until {time_text(min(version.expiries.values()))}"
    if version.log is None:
        yield "no transparency log was read: an index shown only to you would not be noticed"
    elif not version.log.objection:
        yield from _logged(version.log)
    if version.ci is not None and not version.ci.objection:
        yield f"attested by {version.ci.workflow}: it made the same, on that service's runners"
    yield from version.notes


def _logged(log: Logged) -> Iterator[str]:
    cosigned = ", ".join(log.witnesses) or "nobody"
    yield f"release is entry {log.index} of the {log.size} of {log.origin}, cosigned by {cosigned}"
    if not log.witnesses:
        yield "no witness: a second log with this entry, shown only to you, would not be noticed"
    yield "the proof is of the release, not of the index: an index shown only to you would not be noticed"


def unproven(name: str, version: str | None, error: UntrustedError) -> Verdict:
    """The verdict when the trusted root vouches for no statement."""
    wanted = f"{name} {version}" if version else f"any version of {name}"
    refusal = Refusal(error.code, error.got, error.expected)
    return Verdict(Outcome.REFUSED, name, "", Unproven(wanted), "", (refusal,))
