"""All checks that a document must pass before anything is sent to the machine.

There is no partial mode: a missing part is a refusal, and all refusals are reported. This module has the checks
common to all TEEs; each TEE's policy and checks are in a separate module, listed in `RULES`.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from privml.events.agent import AgentEvent
from privml.events.event import Evidence
from privml.events.registers import REGISTERS
from privml.events.stages import KEY_RELEASE
from privml.events.variants import PRODUCTION
from privml.evidence.claims import Checked, SignatureFailure
from privml.evidence.facts import Facts
from privml.evidence.nvidia.claims import NO_DEVICES, CheckedDevices
from privml.evidence.sections import TLS_KEY
from privml.statement.launch import LAYOUTS, Accepted, MeasuredLaunch
from privml.verify import channelkey, denied, nvidia, publication, receipts, releasekey, snp, tdx
from privml.verify.anchor import Anchored, Candidates, Expected, Published, is_demonstration
from privml.verify.explain import agent_difference, register_difference
from privml.verify.judgement import Judgement
from privml.verify.outcome import notes, outcome
from privml.verify.policy import Policy
from privml.verify.publication import DemonstrationCase
from privml.verify.rules import Check, TeeCase, TeeRules, any_of, refuses
from privml.verify.verdict import Binding, Outcome, Refusal, Verdict

RULES: Mapping[str, TeeRules[Any]] = {"tdx": tdx.RULES, "snp": snp.RULES}
"""One record per TEE; `Policy` has a field of the same name."""


@dataclass(frozen=True)
class Case:
    """The input of the checks. ``launch`` is the predicted one with the most registers in common."""

    facts: Facts
    signature: Checked
    expected: Expected
    policy: Policy
    nonce: bytes | None
    tls_spki_sha256: bytes | None
    launch: MeasuredLaunch | None
    devices: CheckedDevices = NO_DEVICES
    channel_record: bytes | None = None
    carried: bool = False

    @property
    def binding(self) -> Binding:
        """The attested key that the verdict rests on."""
        if self.carried:
            return Binding.RELEASE_KEY
        return Binding.TLS_KEY if self.channel_record is None else Binding.CHANNEL_KEY

    @property
    def channel(self) -> channelkey.ChannelCase | None:
        """The input of the check of the channel's keys; None if the verdict rests on the TLS key."""
        found = self.channel_record
        return None if found is None else channelkey.ChannelCase(self.facts.keys, found)

    @property
    def device_case(self) -> nvidia.DeviceCase:
        """The input of the checks of GPUs and switches."""
        return nvidia.DeviceCase(self.facts, self.devices, self.expected.predicate.gpus, self.policy.nvidia)

    @property
    def publication(self) -> publication.PublicationCase | None:
        """The input of the checks of a published version; None if the caller built the image."""
        anchor = self.expected.anchor
        return publication.PublicationCase(anchor, self.policy.published) if isinstance(anchor, Published) else None

    @property
    def demonstration(self) -> DemonstrationCase:
        """The input of the check that a demonstration is allowed."""
        return DemonstrationCase(is_demonstration(self.expected.anchor), self.policy.allow_demonstration)

    @property
    def rules(self) -> TeeRules[Any]:
        """The rules of the document's TEE."""
        return RULES[self.facts.claims.tee]

    @property
    def evidence(self) -> TeeCase[Any]:
        """The input of the TEE's own checks, with that TEE's policy."""
        claims = self.facts.claims
        return TeeCase(claims, self.signature, getattr(self.policy, claims.tee), self.launch)

    @property
    def agent_events(self) -> tuple[AgentEvent, ...] | None:
        """The agent events before a document for the policy's purpose; None if the image gives no such document."""
        return self.expected.predicate.events_of(self.policy.purpose)

    @property
    def unwanted_simulation(self) -> bool:
        """True if the evidence claims to be simulated and no simulation is allowed."""
        return self.signature.claims_simulated and self.policy.allow_simulated is None


def verify(
    facts: Facts,
    signature: Checked,
    expected: Anchored,
    policy: Policy,
    *,
    nonce: bytes | None,
    tls_spki_sha256: bytes | None,
    devices: CheckedDevices = NO_DEVICES,
    channel_record: bytes | None = None,
    carried: bool = False,
) -> Judgement:
    """Judge one document. Of several published versions, the one with the most registers in common is compared.

    ``nonce`` is the caller's 32-byte nonce, ``tls_spki_sha256`` the SHA-256 of the public key of the connection that
    delivered the document (and will carry the prompts). If either is None, the verdict is a refusal. ``devices`` is
    the result of checking the evidence of GPUs (`evidence.devices`).

    With ``channel_record``, the signed record of the channel's keys (no bytes if the guest gave none), the verdict
    rests on the attested channel key instead of the connection's key, which is then not compared.

    ``carried``: a courier brought the document, for a volume key to be released. The verdict then rests on the
    attested release key. ``ValueError`` unless the policy's purpose is key-release.
    """
    if carried and policy.purpose != KEY_RELEASE:
        raise ValueError(f"a carried document for purpose `{policy.purpose}`, expected `{KEY_RELEASE}`")
    if isinstance(expected, Candidates):
        expected = max(expected.versions, key=lambda one: _equal(facts, _closest(facts, one.predicate.launches)))
    launch = _closest(facts, expected.predicate.launches)
    case = Case(facts, signature, expected, policy, nonce, tls_spki_sha256, launch, devices, channel_record, carried)
    refusals = tuple(_refusals(case))
    relaxed = _relaxed(case, refusals)
    verdict = Verdict(
        outcome=outcome(case) if not refusals else Outcome.REFUSED,
        name=expected.predicate.name,
        variant=expected.predicate.variant,
        anchor=expected.anchor,
        shape="" if launch is None else launch.label,
        refusals=refusals,
        notes=tuple(notes(case)),
        relaxed=relaxed,
        models=expected.models,
        data=expected.data,
        learnt=_learnt(launch),
        binding=case.binding,
    )
    agent_events, vouched = case.agent_events or (), _vouched(case)
    return Judgement(
        verdict,
        facts,
        launch,
        _expected_values(case),
        agent_events,
        vouched=vouched,
        signature=signature,
        expected=expected,
    )


def _learnt(launch: MeasuredLaunch | None) -> tuple[str, ...]:
    levels = {} if launch is None else launch.evidence()
    return tuple(register for register, level in levels.items() if level is Evidence.LEARNT)


def _relaxed(case: Case, refusals: tuple[Refusal, ...]) -> tuple[Refusal, ...]:
    """The refusals that only the policy's relaxations prevented."""
    strict = case.policy.strict
    if strict == case.policy:
        return ()
    given = {(refusal.code, refusal.got) for refusal in refusals}
    found = _refusals(dataclasses.replace(case, policy=strict))
    return tuple(refusal for refusal in found if (refusal.code, refusal.got) not in given)


@refuses(
    {
        "simulated": "the evidence comes from a simulation, and no simulated root was allowed",
        "root": "the chain ends in a root that is neither the vendor's nor the allowed simulation's",
    }
)
def origin(case: Case) -> Iterator[Refusal]:
    """Check the root of trust: the vendor's, or a simulation allowed by the policy."""
    checked, vendor = case.signature, case.rules.vendor
    if isinstance(checked, SignatureFailure):
        if case.unwanted_simulation:
            yield Refusal("simulated", "a chain that says SIMULATED", f"a chain from {vendor}'s root")
        return
    allowed = case.policy.simulated_root_sha256
    if not _vouched(case):
        genuine = " or ".join(f"{root} ({vendor})" for root in sorted(case.rules.genuine_roots))
        wanted = f"{genuine} or {allowed} (simulated)" if allowed else genuine
        yield Refusal("simulated" if case.unwanted_simulation else "root", f"root {checked.root_sha256}", wanted)


@refuses(
    {
        "shapes": "the statement lists no shape",
        "unpinned": "the statement has no value for a register",
        "runtime-unused": "the image's kernel cannot extend the register of the agent's events",
        **{register: meaning for rules in RULES.values() for register, meaning in rules.registers.items()},
    }
)
def registers(case: Case) -> Iterator[Refusal]:
    """Check that every register of the TEE has a value accepted for the closest launch."""
    launch, claims = case.launch, case.facts.claims
    if launch is None:
        others = any_of({launch.tee for launch in case.expected.predicate.launches})
        found, wanted = (f"only {others}", f"one for {claims.tee}") if others else ("none", "at least one shape")
        yield Refusal("shapes", found, wanted)
        return
    if launch.runtime_unused and not case.policy.allow_unused_runtime:
        runtime = str(LAYOUTS[launch.tee].runtime).upper()
        yield Refusal("runtime-unused", f"{runtime} stays zero", f"{runtime} extended with the agent's events")
    for register in REGISTERS[claims.tee]:
        if register == LAYOUTS[launch.tee].runtime and case.agent_events is None:
            continue  # no value is expected for this purpose: `header` refuses it
        got, accepted = claims.registers[register], _accepted(case, launch, register)
        if accepted is None:
            if case.expected.predicate.variant == PRODUCTION:
                yield Refusal("unpinned", f"{register.upper()} {got.hex()}", "a value in the statement")
        elif got not in accepted:
            difference = register_difference(register, case.facts, launch, case.rules.unlogged)
            where = f"closest shape: {launch.label}\n{difference}"
            yield Refusal(register, got.hex(), " or ".join(value.hex() for value in accepted), where)


def _accepted(case: Case, launch: MeasuredLaunch, register: str) -> tuple[bytes, ...] | None:
    """The accepted values of ``register`` in a document for the policy's purpose; None if it is not pinned."""
    if not isinstance(launch.registers[register], Accepted):
        return None
    if register == LAYOUTS[launch.tee].runtime:
        return (case.expected.predicate.runtime_of(launch, case.policy.purpose),)
    return launch.accepted(register)


@refuses(
    {
        "agent-events": "the agent's log is not the expected list",
    }
)
def agent_log(case: Case) -> Iterator[Refusal]:
    """Check that the agent's log has exactly the expected events."""
    logged, wanted = case.facts.agent_events, case.agent_events
    if wanted is None:
        return  # `header` refuses the purpose
    if logged != wanted:
        yield Refusal(
            "agent-events",
            " ".join(event.name for event in logged) or "no events",
            " ".join(event.name for event in wanted) or "no events",
            agent_difference(logged, wanted),
        )


@refuses(
    {
        "nonce": "the document is for a different nonce",
        "report-data": "the evidence's report data does not match the document's sections and nonce",
        "tls-key": "the connection's key is not the attested one",
    }
)
def binding(case: Case) -> Iterator[Refusal]:
    """Check that the evidence covers the nonce, the sections and, if it is bound to it, this connection's key."""
    facts = case.facts
    if case.nonce is None or not hmac.compare_digest(facts.nonce, case.nonce):
        yield Refusal("nonce", facts.nonce.hex(), "the caller's own" if case.nonce is None else case.nonce.hex())
    if facts.claims.report_data != facts.report_data:
        yield Refusal("report-data", facts.claims.report_data.hex(), facts.report_data.hex())
    if case.binding is not Binding.TLS_KEY:
        return
    attested = facts.keys.find(*TLS_KEY)
    if attested is None or case.tls_spki_sha256 != attested:
        got = "no connection" if case.tls_spki_sha256 is None else case.tls_spki_sha256.hex()
        yield Refusal("tls-key", got, "a TLS key in the document" if attested is None else attested.hex())


@refuses(
    {
        "variant": "the document's variant differs from the statement's",
        "development": "a development image can only be accepted together with a simulation",
        "purpose": "the document was made for a different purpose",
        "stage": "the document was made at a different stage of the boot",
    }
)
def header(case: Case) -> Iterator[Refusal]:
    """Check image variant, purpose and boot stage."""
    found, variant = case.facts.header, case.expected.predicate.variant
    if found.variant != variant:
        yield Refusal("variant", found.variant, variant)
    if found.variant != PRODUCTION and case.policy.allow_simulated is None:
        yield Refusal("development", found.variant, PRODUCTION)
    if found.purpose != case.policy.purpose:
        yield Refusal("purpose", found.purpose, case.policy.purpose)
    elif case.agent_events is None:
        yield Refusal("purpose", found.purpose, any_of(case.expected.predicate.purposes) or "no document at all")
    if found.stage != case.policy.stage:
        yield Refusal("stage", found.stage, case.policy.stage)


@refuses({"exceptions": "the image declares an exception that weakens it, and the policy does not name it"})
def exceptions(case: Case) -> Iterator[Refusal]:
    """Check that the policy accepts each exception of the image's recipe."""
    for declared in case.expected.predicate.exceptions:
        if declared.name not in case.policy.exceptions:
            wanted = any_of(case.policy.exceptions) or "no exceptions"
            yield Refusal("exceptions", declared.name, wanted, f"the recipe's reason: {declared.reason}")


def _refusals(case: Case) -> Iterator[Refusal]:
    rules, evidence = case.rules, case.evidence
    yield from origin(case)
    # A caller who allows no simulation does not need to know why a simulated signature fails.
    if not (isinstance(case.signature, SignatureFailure) and case.unwanted_simulation):
        yield from rules.signature(evidence)
    for check in rules.checks:
        yield from check(evidence)
    for core in (registers, agent_log, binding, header, exceptions):
        yield from core(case)
    if case.channel is not None:
        yield from channelkey.channel(case.channel)
    if case.binding is Binding.RELEASE_KEY:
        yield from releasekey.release(case.facts.keys)
    for device_check in nvidia.CHECKS:
        yield from device_check(case.device_case)
    yield from denied.samples(case.facts)
    if case.publication is not None:
        yield from publication.publication(case.publication)
    yield from publication.demonstration(case.demonstration)


def _closest(facts: Facts, launches: tuple[MeasuredLaunch, ...]) -> MeasuredLaunch | None:
    mine = (launch for launch in launches if launch.tee == facts.claims.tee)
    return max(mine, key=lambda launch: _equal(facts, launch), default=None)


def _equal(facts: Facts, launch: MeasuredLaunch | None) -> int:
    """The number of registers that have a value accepted for ``launch``; -1 without one."""
    if launch is None:
        return -1
    return sum(value in launch.accepted(register) for register, value in facts.claims.registers.items())


def _expected_values(case: Case) -> dict[str, tuple[bytes, ...]]:
    """The accepted values of each register that is compared."""
    launch, found = case.launch, {}
    for register in () if launch is None else REGISTERS[launch.tee]:
        if launch is None or (register == LAYOUTS[launch.tee].runtime and case.agent_events is None):
            continue
        if (values := _accepted(case, launch, register)) is not None:
            found[register] = values
    return found


def _vouched(case: Case) -> bool:
    """Whether a valid signature under an accepted root covers the evidence."""
    checked = case.signature
    accepted = (*case.rules.genuine_roots, case.policy.simulated_root_sha256)
    return not isinstance(checked, SignatureFailure) and checked.root_sha256 in accepted


def _union(checks: Iterable[Check[Any]]) -> dict[str, str]:
    codes: dict[str, str] = {}
    for check in checks:
        # Two TEEs may share a code, if it means the same.
        twice = [code for code, meaning in check.codes.items() if codes.get(code, meaning) != meaning]
        if twice:
            raise ValueError(f"refusal code `{min(twice)}` is used by two checks")
        codes.update(check.codes)
    return codes


CODES: Mapping[str, str] = _union(
    (
        origin,
        *(check for rules in RULES.values() for check in (rules.signature, *rules.checks)),
        registers,
        agent_log,
        binding,
        channelkey.channel,
        releasekey.release,
        header,
        *nvidia.CHECKS,
        denied.samples,
        exceptions,
        publication.publication,
        publication.demonstration,
        receipts.receipt,
    )
)
"""Every refusal code and what it means."""
UNPROVEN = frozenset(
    {"nonce", "report-data", *origin.codes, *(code for rules in RULES.values() for code in rules.signature.codes)}
)
"""The codes without which a document is proven to be fresh and of a known platform, whatever else is wrong."""
