"""The one tuple: everything that must hold of a document before anything is sent to the machine behind it.

There is no partial mode: a part that is missing is a refusal, and all refusals are given (DESIGN decision 19).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator

from privml.events.registers import MRTD, RTMRS, TDX_REGISTERS
from privml.evidence.facts import Facts
from privml.evidence.quote_facts import QuoteFacts, SignatureFailure
from privml.statement.launch import MeasuredLaunch
from privml.verify.explain import agent_difference, register_difference
from privml.verify.policy import INTEL_ROOT_SHA256, Expected, Policy
from privml.verify.verdict import Outcome, Refusal, Verdict


def verify(
    facts: Facts,
    signature: QuoteFacts | SignatureFailure,
    expected: Expected,
    policy: Policy,
    *,
    nonce: bytes | None,
    tls_spki_sha256: bytes | None,
) -> Verdict:
    """Judge one document.

    ``nonce`` is the 32 bytes that the caller asked with, ``tls_spki_sha256`` the SHA-256 of the public key of the
    connection that brought the answer (and will bring the prompts). Either may be None only because a caller has
    none; the verdict then refuses.
    """
    shape = _closest(facts, expected.predicate.launches)
    refusals = (
        *_signature(facts, signature, policy),
        *_td(facts, policy),
        *_registers(facts, shape),
        *_agent(facts, expected),
        *_binding(facts, nonce, tls_spki_sha256),
        *_header(facts, expected, policy),
    )
    return Verdict(
        outcome=_outcome(facts, signature) if not refusals else Outcome.REFUSED,
        name=expected.predicate.name,
        variant=expected.predicate.variant,
        anchor=expected.anchor,
        shape="" if shape is None else shape.label,
        refusals=refusals,
        notes=tuple(_notes(signature, shape, policy)),
    )


def _outcome(facts: Facts, signature: QuoteFacts | SignatureFailure) -> Outcome:
    genuine = isinstance(signature, QuoteFacts) and signature.root_sha256 == INTEL_ROOT_SHA256
    # A development image can hold anything, so genuine hardware under it makes it no better than a simulation.
    return Outcome.ACCEPTED if genuine and facts.header.variant == "production" else Outcome.ACCEPTED_SIMULATED


def _signature(facts: Facts, signature: QuoteFacts | SignatureFailure, policy: Policy) -> Iterator[Refusal]:
    if isinstance(signature, SignatureFailure):
        if signature.claims_simulated and policy.allow_simulated is None:
            yield Refusal("simulated", "a chain that says SIMULATED", "a chain from Intel's root")
        else:
            yield Refusal(signature.code, signature.reason, signature.expected)
        return
    if signature.quote_sha256 != facts.quote_sha256:
        yield Refusal(
            "quote-signature", f"a check of quote {signature.quote_sha256}", f"of quote {facts.quote_sha256}"
        )
    if signature.root_sha256 != INTEL_ROOT_SHA256 and signature.root_sha256 != policy.simulated_root_sha256:
        code = "simulated" if signature.claims_simulated and policy.allow_simulated is None else "root"
        yield Refusal(code, f"root {signature.root_sha256}", _roots(policy))
    if signature.tcb_status not in policy.tcb_statuses:
        found = signature.tcb_status
        if signature.advisory_ids:
            found += f" ({', '.join(signature.advisory_ids)})"
        yield Refusal("tcb-status", found, _any_of(policy.tcb_statuses))
    if signature.tcb_evaluation_number < policy.min_tcb_evaluation_number:
        wanted = f"{policy.min_tcb_evaluation_number} or later"
        yield Refusal("tcb-evaluation-number", str(signature.tcb_evaluation_number), wanted)
    rejected = [advisory for advisory in signature.advisory_ids if advisory in policy.rejected_advisories]
    if rejected:
        yield Refusal("advisory", ", ".join(rejected), "none of the rejected ones")
    if policy.platforms and signature.ppid not in policy.platforms:
        yield Refusal("platform", signature.ppid.hex(), _any_of(ppid.hex() for ppid in policy.platforms))


def _td(facts: Facts, policy: Policy) -> Iterator[Refusal]:
    body = facts.quote.body
    exact = (
        ("qe-vendor", facts.quote.header.qe_vendor, policy.qe_vendor),
        ("td-attributes", body.td_attributes, policy.td_attributes),
        ("mrsignerseam", body.mr_signer_seam, policy.mr_signer_seam),
        ("seam-attributes", body.seam_attributes, policy.seam_attributes),
        ("mrconfigid", body.mr_config_id, policy.mr_config_id),
        ("mrowner", body.mr_owner, policy.mr_owner),
        ("mrownerconfig", body.mr_owner_config, policy.mr_owner_config),
    )
    for code, got, want in exact:
        if got != want:
            yield Refusal(code, got.hex(), want.hex())
    if body.xfam not in policy.xfams:
        yield Refusal("xfam", body.xfam.hex(), _any_of(xfam.hex() for xfam in policy.xfams))
    if policy.mr_seams and body.mr_seam not in policy.mr_seams:
        yield Refusal("mrseam", body.mr_seam.hex(), _any_of(seam.hex() for seam in policy.mr_seams))
    # A TD 1.0 report has no such field: the module that wrote it knows no service TDs.
    if body.mr_service_td is not None and body.mr_service_td != policy.mr_service_td:
        yield Refusal("mrservicetd", body.mr_service_td.hex(), policy.mr_service_td.hex())


def _closest(facts: Facts, shapes: tuple[MeasuredLaunch, ...]) -> MeasuredLaunch | None:
    def equal(shape: MeasuredLaunch) -> int:
        return sum(facts.register(register) in shape.accepted(register) for register in TDX_REGISTERS)

    return max(shapes, key=equal, default=None)


def _registers(facts: Facts, shape: MeasuredLaunch | None) -> Iterator[Refusal]:
    if shape is None:
        yield Refusal("shapes", "none", "one shape or more")
        return
    for register in (MRTD, *RTMRS):
        got, accepted = facts.register(register), shape.accepted(register)
        if got not in accepted:
            where = f"closest shape: {shape.label}\n{register_difference(register, facts, shape)}"
            yield Refusal(register, got.hex(), " or ".join(value.hex() for value in accepted), where)


def _agent(facts: Facts, expected: Expected) -> Iterator[Refusal]:
    wanted = expected.predicate.agent_events
    if facts.agent_events != wanted:
        yield Refusal(
            "agent-events",
            " ".join(event.name for event in facts.agent_events) or "no events",
            " ".join(event.name for event in wanted) or "no events",
            agent_difference(facts.agent_events, wanted),
        )
    # Attestation document v1 has no place for GPU evidence (`report_data.Devices`), so such an image cannot pass.
    if any(event.name.startswith("gpu-") for event in wanted):
        yield Refusal("gpu-evidence", "none", "evidence for each declared GPU")


def _binding(facts: Facts, nonce: bytes | None, tls_spki_sha256: bytes | None) -> Iterator[Refusal]:
    if nonce is None or not hmac.compare_digest(facts.nonce, nonce):
        yield Refusal("nonce", facts.nonce.hex(), "the caller's own" if nonce is None else nonce.hex())
    if facts.quote.body.report_data != facts.report_data:
        yield Refusal("report-data", facts.quote.body.report_data.hex(), facts.report_data.hex())
    if tls_spki_sha256 != facts.keys.tls_spki_sha256:
        got = "no connection" if tls_spki_sha256 is None else tls_spki_sha256.hex()
        yield Refusal("tls-key", got, facts.keys.tls_spki_sha256.hex())


def _header(facts: Facts, expected: Expected, policy: Policy) -> Iterator[Refusal]:
    header = facts.header
    if header.variant != expected.predicate.variant:
        yield Refusal("variant", header.variant, expected.predicate.variant)
    if header.variant != "production" and policy.allow_simulated is None:
        yield Refusal("development", header.variant, "production")
    if header.purpose != policy.purpose:
        yield Refusal("purpose", header.purpose, policy.purpose)
    if header.stage != policy.stage:
        yield Refusal("stage", header.stage, policy.stage)


def _notes(signature: QuoteFacts | SignatureFailure, shape: MeasuredLaunch | None, policy: Policy) -> Iterator[str]:
    if isinstance(signature, QuoteFacts):
        level = f"TCB {signature.tcb_status}, evaluation {signature.tcb_evaluation_number}"
        yield f"{level}, FMSPC {signature.fmspc.hex()}"
        if signature.advisory_ids:
            yield f"advisories: {', '.join(signature.advisory_ids)}"
    if not policy.mr_seams:
        yield "MRSEAM: any TDX module that Intel signed, at an accepted TCB level"
    if shape is not None:
        weakest = min(shape.evidence().items(), key=lambda item: item[1].strength)
        yield f"prediction: weakest register {weakest[0].upper()}, known from {weakest[1].value}"


def _roots(policy: Policy) -> str:
    allowed = policy.simulated_root_sha256
    return f"{INTEL_ROOT_SHA256} (Intel)" + (f" or {allowed} (simulated)" if allowed else "")


def _any_of(values: Iterable[str]) -> str:
    return " or ".join(sorted(values))
