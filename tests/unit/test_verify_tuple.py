"""The tuple: the honest document is accepted, and each single bent part gives exactly its own refusal."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import attestation_samples as samples
import pytest

from privml.base.strictjson import loads
from privml.events import agent
from privml.events.registers import MRTD, RTMR0, TDX_REGISTERS
from privml.evidence.claims import SignatureFailure
from privml.evidence.facts import Facts
from privml.evidence.sections import Header, Keys
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote
from privml.evidence.tdx.claims import read
from privml.evidence.tdx.quote_facts import QuoteFacts
from privml.evidence.tdx.signature import check
from privml.statement.predicate import MeasuredShape
from privml.verify.check import verify
from privml.verify.policy import INTEL_ROOT_SHA256, Expected, Policy
from privml.verify.report import render
from privml.verify.verdict import CODES, Outcome, Refusal, Verdict

DOCUMENT = samples.document()
FACTS = samples.facts_of(DOCUMENT)
SIGNATURE = samples.signature_of(DOCUMENT)
GENUINE = dataclasses.replace(SIGNATURE, root_sha256=INTEL_ROOT_SHA256, claims_simulated=False)
FLIP_8 = bytes.fromhex("0100000000000000")
FLIP_48 = b"\1" * 48


def judge(**changes: Any) -> Verdict:
    arguments: dict[str, Any] = {
        "facts": FACTS,
        "signature": GENUINE,
        "expected": samples.EXPECTED,
        "policy": Policy(),
        "nonce": samples.NONCE,
        "tls_spki_sha256": samples.SPKI,
        **changes,
    }
    return verify(**arguments)


def codes(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals}


def test_the_honest_document_is_accepted() -> None:
    verdict = judge()
    assert (verdict.outcome, verdict.refusals, verdict.exit_code) == (Outcome.ACCEPTED, (), 0)
    assert verdict.shape == "qemu-11-q35, 4 vcpus, 4096 MiB"
    assert render(verdict).startswith("ACCEPTED: demo-cpu (production), against the build in out/demo-cpu\n")
    assert any("MRSEAM" in note for note in verdict.notes)


def test_the_honest_simulation_is_accepted_as_such() -> None:
    verdict = judge(signature=SIGNATURE, policy=samples.SIMULATED)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.ACCEPTED_SIMULATED, 10)
    assert not verdict.accepted
    assert render(verdict).startswith("ACCEPTED-SIMULATED (no hardware vouches for this): demo-cpu")


def register(name: str) -> Callable[[Facts], Facts]:
    return lambda facts: samples.with_register(facts, name, FLIP_48)


def field(name: str, value: bytes) -> Callable[[Facts], Facts]:
    return lambda facts: samples.with_field(facts, name, value)


def report_data(value: bytes) -> Callable[[Facts], Facts]:
    return lambda facts: samples.with_claims(facts, report_data=value)


# Every field of a TD report, bent: (new facts, the one refusal that must follow).
BODY: dict[str, tuple[Callable[[Facts], Facts], str | None]] = {
    "tee-tcb-svn": (field("tee-tcb-svn", FLIP_48[:16]), None),  # judged by the QVL as part of the TCB level
    "tee-tcb-svn2": (field("tee-tcb-svn2", FLIP_48[:16]), None),
    "qe-vendor": (field("qe-vendor", bytes(16)), "qe-vendor"),
    "mrseam": (field("mrseam", FLIP_48), "mrseam"),
    "mrsignerseam": (field("mrsignerseam", FLIP_48), "mrsignerseam"),
    "seam-attributes": (field("seam-attributes", FLIP_8), "seam-attributes"),
    "td-attributes": (field("td-attributes", bytes.fromhex("0100001000000000")), "td-attributes"),
    "xfam": (field("xfam", FLIP_8), "xfam"),
    "mrconfigid": (field("mrconfigid", FLIP_48), "mrconfigid"),
    "mrowner": (field("mrowner", FLIP_48), "mrowner"),
    "mrownerconfig": (field("mrownerconfig", FLIP_48), "mrownerconfig"),
    "mrservicetd": (field("mrservicetd", FLIP_48), "mrservicetd"),
    "report data": (report_data(FLIP_48[:32] + bytes(32)), "report-data"),
    **{name: (register(name), name) for name in TDX_REGISTERS},
}
V5 = (samples.VECTORS / "tdx_quote_v5.bin").read_bytes()


def test_no_field_of_a_td_report_is_forgotten() -> None:
    claims = read(V5)
    assert set(BODY) == {"report data", *claims.registers, *claims.fields}
    body = quote.parse(V5).body
    claimed = [*claims.registers.values(), *claims.fields.values(), claims.report_data]
    for part in dataclasses.fields(body):
        value = getattr(body, part.name)
        assert all(one in claimed for one in (value if isinstance(value, tuple) else (value,))), part.name


@pytest.mark.parametrize("name", BODY)
def test_each_bent_field_of_the_report_is_its_own_refusal(name: str) -> None:
    change, code = BODY[name]
    policy = Policy(mr_seams=frozenset({FACTS.claims.fields["mrseam"]}))
    assert codes(judge(facts=change(FACTS), policy=policy)) == ({code} if code else set())


@pytest.mark.parametrize("bit", range(64))
def test_every_td_attribute_is_exact(bit: int) -> None:
    flipped = (int.from_bytes(FACTS.claims.fields["td-attributes"], "little") ^ 1 << bit).to_bytes(8, "little")
    assert codes(judge(facts=field("td-attributes", flipped)(FACTS))) == {"td-attributes"}


def header(**changes: str) -> Facts:
    return dataclasses.replace(FACTS, header=dataclasses.replace(Header("production", "tdx"), **changes))


OTHER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nonce": ({"nonce": bytes(32)}, {"nonce"}),
    "nonce missing": ({"nonce": None}, {"nonce"}),
    "nonce short": ({"nonce": b""}, {"nonce"}),
    "key": ({"tls_spki_sha256": bytes(32)}, {"tls-key"}),
    "key missing": ({"tls_spki_sha256": None}, {"tls-key"}),
    "no tls key": ({"facts": dataclasses.replace(FACTS, keys=Keys(()))}, {"tls-key"}),
    "no tls key, no connection": (
        {"facts": dataclasses.replace(FACTS, keys=Keys(())), "tls_spki_sha256": None},
        {"tls-key"},
    ),
    "report data upper half": (
        {"facts": report_data(FACTS.report_data[:32] + b"\1" * 32)(FACTS)},
        {"report-data"},
    ),
    "variant": ({"facts": header(variant="development"), "policy": samples.SIMULATED}, {"variant"}),
    "development": ({"facts": header(variant="development")}, {"variant", "development"}),
    "purpose": ({"facts": header(purpose="key-release")}, {"purpose"}),
    "stage": ({"facts": header(stage="keys")}, {"stage"}),
    "no agent events": ({"facts": dataclasses.replace(FACTS, agent_events=())}, {"agent-events"}),
    "failed": (
        {"facts": dataclasses.replace(FACTS, agent_events=(*FACTS.agent_events, agent.failed_event()))},
        {"agent-events"},
    ),
    "no shapes": (
        {"expected": Expected(dataclasses.replace(samples.PREDICATE, shapes=()), "x")},
        {"shapes"},
    ),
    "signature": ({"signature": SignatureFailure("bad")}, {"quote-signature"}),
    "signature simulated": ({"signature": SignatureFailure("bad", claims_simulated=True)}, {"simulated"}),
    "signature simulated, allowed": (
        {"signature": SignatureFailure("bad", claims_simulated=True), "policy": samples.SIMULATED},
        {"quote-signature"},
    ),
    "collateral": ({"signature": SignatureFailure("none", code="collateral-missing")}, {"collateral-missing"}),
    "simulated": ({"signature": SIGNATURE}, {"simulated"}),
    "other root": ({"signature": dataclasses.replace(GENUINE, root_sha256="00" * 32)}, {"root"}),
    "other simulation": (
        {"signature": SIGNATURE, "policy": Policy(allow_simulated=b"another root")},
        {"root"},
    ),
    "another quote's signature": (
        {"signature": dataclasses.replace(GENUINE, evidence_sha256="00" * 32)},
        {"quote-signature"},
    ),
    "tcb": ({"signature": dataclasses.replace(GENUINE, tcb_status="OutOfDate")}, {"tcb-status"}),
    "evaluation": (
        {"signature": dataclasses.replace(GENUINE, tcb_evaluation_number=17)},
        {"tcb-evaluation-number"},
    ),
    "advisory": (
        {
            "signature": dataclasses.replace(GENUINE, advisory_ids=("INTEL-SA-1", "INTEL-SA-2")),
            "policy": Policy(rejected_advisories=frozenset({"INTEL-SA-2"})),
        },
        {"advisory"},
    ),
    "platform": ({"policy": Policy(platforms=frozenset({bytes(16)}))}, {"platform"}),
    "mrseam list": ({"policy": Policy(mr_seams=frozenset({bytes(48)}))}, {"mrseam"}),
}


@pytest.mark.parametrize("name", OTHER)
def test_each_other_bent_part_is_its_own_refusal(name: str) -> None:
    changes, wanted = OTHER[name]
    verdict = judge(**changes)
    assert codes(verdict) == wanted
    assert (verdict.outcome, verdict.exit_code) == (Outcome.REFUSED, 8)
    assert render(verdict).startswith("REFUSED: ")


def test_every_policy_field_is_used() -> None:
    """A policy that nobody can meet in one field refuses the honest document for that field."""
    impossible: dict[str, Any] = {
        "tcb_statuses": frozenset(),
        "min_tcb_evaluation_number": 2000,
        "qe_vendor": bytes(16),
        "td_attributes": bytes(8),
        "xfams": frozenset(),
        "mr_seams": frozenset({bytes(48)}),
        "mr_signer_seam": FLIP_48,
        "seam_attributes": FLIP_8,
        "mr_config_id": FLIP_48,
        "mr_owner": FLIP_48,
        "mr_owner_config": FLIP_48,
        "mr_service_td": FLIP_48,
        "platforms": frozenset({bytes(16)}),
        "purpose": "key-release",
        "stage": "failed",
        "rejected_advisories": frozenset({"A"}),
        "allow_simulated": None,
    }
    assert set(impossible) == {field.name for field in dataclasses.fields(Policy)}
    facts = samples.with_field(FACTS, "mrservicetd", bytes(48))
    advised = dataclasses.replace(GENUINE, advisory_ids=("A",))
    assert judge(facts=facts, signature=advised).accepted
    for name, value in impossible.items():
        if name == "allow_simulated":
            continue
        policy = dataclasses.replace(Policy(), **{name: value})
        assert len(judge(facts=facts, signature=advised, policy=policy).refusals) == 1, name


def test_development_is_never_accepted_as_genuine() -> None:
    expected = Expected(dataclasses.replace(samples.PREDICATE, variant="development"), "x")
    facts = header(variant="development")
    assert codes(judge(facts=facts, expected=expected)) == {"development"}
    allowed = judge(facts=facts, expected=expected, policy=samples.SIMULATED)
    assert allowed.outcome is Outcome.ACCEPTED_SIMULATED


def test_an_image_with_gpus_needs_gpu_evidence() -> None:
    events = (*samples.AGENT_EVENTS[:1], agent.AgentEvent("gpu-ready", b"{}"), *samples.AGENT_EVENTS[1:])
    expected = Expected(dataclasses.replace(samples.PREDICATE, agent_events=events), "x")
    assert codes(judge(facts=dataclasses.replace(FACTS, agent_events=events), expected=expected)) == {"gpu-evidence"}


def test_all_reasons_are_given_at_once() -> None:
    facts = header(purpose="key-release")
    for change in (register("rtmr2"), register("mrtd"), field("xfam", FLIP_8)):
        facts = change(facts)
    verdict = judge(facts=facts, nonce=None, signature=dataclasses.replace(GENUINE, tcb_status="OutOfDate"))
    assert codes(verdict) == {"rtmr2", "purpose", "mrtd", "xfam", "nonce", "tcb-status"}
    text = render(verdict)
    assert all(code in text for code in codes(verdict))
    assert verdict.to_dict()["refusals"][0].keys() == {"code", "got", "expected", "where"}


def test_a_mix_of_two_shapes_is_no_shape() -> None:
    mixed: tuple[MeasuredShape, ...] = (
        dataclasses.replace(samples.PREDICATE.shapes[0], mrtd=(FLIP_48,)),
        samples.PREDICATE.shapes[1],
    )
    expected = Expected(dataclasses.replace(samples.PREDICATE, shapes=mixed), "x")
    facts = samples.with_register(FACTS, RTMR0, samples.PREDICATE.shapes[0].rtmrs[0])
    verdict = judge(facts=facts, expected=expected)
    assert verdict.outcome is Outcome.REFUSED
    assert len(verdict.refusals) == 1


def test_the_two_pass_mrtd_is_accepted_too() -> None:
    assert judge(facts=samples.with_register(FACTS, MRTD, samples.PREDICATE.shapes[1].mrtd[1])).accepted


def test_refusal_codes_are_known_ones() -> None:
    with pytest.raises(ValueError, match="not defined"):
        Refusal("nonsense", "", "")
    assert all(register in CODES for register in TDX_REGISTERS)
    assert isinstance(SIGNATURE, QuoteFacts)


def test_a_real_server_meets_the_strict_policy() -> None:
    """A genuine quote over our document is refused for what it measures and binds, and for nothing else."""
    data = (samples.VECTORS / "tdx_quote.bin").read_bytes()
    collateral = collaterals.decode(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes()))
    signed = check(data, collateral, now=1_750_420_000)
    facts = dataclasses.replace(FACTS, claims=read(data))
    assert facts.claims.evidence_sha256 == hashlib.sha256(data[:4936]).hexdigest()
    image = {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report-data"}
    assert codes(judge(facts=facts, signature=signed)) == image | {"tcb-evaluation-number"}
    assert codes(judge(facts=facts, signature=signed, policy=Policy(min_tcb_evaluation_number=17))) == image
