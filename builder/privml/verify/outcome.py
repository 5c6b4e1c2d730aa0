"""What a verdict says besides its refusals: how far an acceptance goes, and the notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from privml.events.event import Evidence
from privml.events.variants import PRODUCTION
from privml.evidence.claims import SignatureFailure
from privml.statement.launch import LAYOUTS, FilledBy
from privml.verify import channelkey, nvidia, publication
from privml.verify.anchor import Fetched
from privml.verify.verdict import Outcome

if TYPE_CHECKING:
    from privml.verify.check import Case


def outcome(case: Case) -> Outcome:
    """The outcome of a document without refusals."""
    # Whoever made all keys of a demonstration could have published anything.
    accepted = _genuine(case) and not case.demonstration.demonstration
    return Outcome.ACCEPTED if accepted else Outcome.ACCEPTED_SIMULATED


def _genuine(case: Case) -> bool:
    checked = case.signature
    genuine = not isinstance(checked, SignatureFailure) and checked.root_sha256 in case.rules.genuine_roots
    # A development image can contain anything, so even on genuine hardware it is treated like a simulation.
    genuine = genuine and not nvidia.simulated(case.device_case)
    return genuine and case.facts.header.variant == PRODUCTION


def notes(case: Case) -> Iterator[str]:
    """What a reader should know besides the outcome: of the platform, the publication and the prediction."""
    if case.demonstration.demonstration:
        platform = "the platform is genuine" if _genuine(case) else "no hardware vouches for this guest"
        yield f"a demonstration: one person made all keys, so nobody else vouches for this image; {platform}"
    yield from case.rules.notes(case.evidence)
    if case.channel is not None:
        yield from channelkey.notes(case.channel)
    yield from nvidia.notes(case.device_case)
    if case.publication is not None:
        yield from publication.notes(case.publication.version)
    if isinstance(case.expected.anchor, Fetched):
        yield "the image was fetched, not built; `--trust` shows whether its publishers revoked it since"
    for declared in case.expected.predicate.exceptions:
        if declared.name in case.policy.exceptions:
            yield f"exception {declared.name}: accepted by the policy; the recipe's reason: {declared.reason}"
    if case.launch is None:
        return
    levels = case.launch.evidence()
    if levels:
        weakest = min(levels.items(), key=lambda item: item[1].strength)
        how = "learnt from captures" if weakest[1] is Evidence.LEARNT else f"confirmed by {weakest[1].value}"
        yield f"prediction: weakest register {weakest[0].upper()}, {how}"
    for register, level in levels.items():
        if level is Evidence.ENDORSED:
            yield f"{register.upper()}: a value that the firmware's vendor signed; nothing here computes it"
    if case.launch.runtime_unused:
        runtime = str(LAYOUTS[case.launch.tee].runtime).upper()
        yield f"{runtime}: unused, the image's kernel cannot extend it; only the report data covers the agent's log"
    for register, value in case.launch.registers.items():
        if isinstance(value, FilledBy):
            yield f"{register.upper()}: not compared, the statement leaves it to {value.source}"
        elif value is None:
            yield f"{register.upper()}: not compared, the statement has no value"
