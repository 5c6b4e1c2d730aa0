"""The tuple: the honest document is accepted, and each single bent part gives exactly its own refusal."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from typing import Any

import attestation_samples as samples
import pytest

from privml.base.strictjson import loads
from privml.events import agent
from privml.events.registers import TDX_REGISTERS
from privml.evidence import quote
from privml.evidence.document import decode_collateral
from privml.evidence.facts import Facts
from privml.evidence.quote import TdBody
from privml.evidence.quote_facts import QuoteFacts, SignatureFailure
from privml.evidence.report_data import Header
from privml.evidence.signature import check
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


def rtmr(index: int) -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        values = list(facts.quote.body.rtmrs)
        values[index] = FLIP_48
        return samples.with_body(facts, rtmrs=tuple(values))

    return change


def body(name: str, value: bytes) -> Callable[[Facts], Facts]:
    return lambda facts: samples.with_body(facts, **{name: value})


# Every field of a TD report, bent: (new facts, the one refusal that must follow).
BODY: dict[str, tuple[Callable[[Facts], Facts], str | None]] = {
    "tee_tcb_svn": (body("tee_tcb_svn", FLIP_48[:16]), None),  # judged by the QVL as part of the TCB level
    "tee_tcb_svn2": (body("tee_tcb_svn2", FLIP_48[:16]), None),
    "mr_seam": (body("mr_seam", FLIP_48), "mrseam"),
    "mr_signer_seam": (body("mr_signer_seam", FLIP_48), "mrsignerseam"),
    "seam_attributes": (body("seam_attributes", FLIP_8), "seam-attributes"),
    "td_attributes": (body("td_attributes", bytes.fromhex("0100001000000000")), "td-attributes"),
    "xfam": (body("xfam", FLIP_8), "xfam"),
    "mr_td": (body("mr_td", FLIP_48), "mrtd"),
    "mr_config_id": (body("mr_config_id", FLIP_48), "mrconfigid"),
    "mr_owner": (body("mr_owner", FLIP_48), "mrowner"),
    "mr_owner_config": (body("mr_owner_config", FLIP_48), "mrownerconfig"),
    "rtmrs": (rtmr(0), "rtmr0"),
    "report_data": (body("report_data", FLIP_48[:32] + bytes(32)), "report-data"),
    "mr_service_td": (body("mr_service_td", FLIP_48), "mrservicetd"),
}


def test_no_field_of_a_td_report_is_forgotten() -> None:
    assert set(BODY) == {field.name for field in dataclasses.fields(TdBody)}


@pytest.mark.parametrize("name", BODY)
def test_each_bent_field_of_the_report_is_its_own_refusal(name: str) -> None:
    change, code = BODY[name]
    policy = Policy(mr_seams=frozenset({FACTS.quote.body.mr_seam}))
    assert codes(judge(facts=change(FACTS), policy=policy)) == ({code} if code else set())


@pytest.mark.parametrize("index", range(4))
def test_each_rtmr_is_compared(index: int) -> None:
    assert codes(judge(facts=rtmr(index)(FACTS))) == {f"rtmr{index}"}


@pytest.mark.parametrize("bit", range(64))
def test_every_td_attribute_is_exact(bit: int) -> None:
    flipped = (int.from_bytes(FACTS.quote.body.td_attributes, "little") ^ 1 << bit).to_bytes(8, "little")
    assert codes(judge(facts=body("td_attributes", flipped)(FACTS))) == {"td-attributes"}


def header(**changes: str) -> Facts:
    return dataclasses.replace(FACTS, header=dataclasses.replace(Header("production"), **changes))


OTHER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nonce": ({"nonce": bytes(32)}, {"nonce"}),
    "nonce missing": ({"nonce": None}, {"nonce"}),
    "nonce short": ({"nonce": b""}, {"nonce"}),
    "key": ({"tls_spki_sha256": bytes(32)}, {"tls-key"}),
    "key missing": ({"tls_spki_sha256": None}, {"tls-key"}),
    "report data upper half": (
        {"facts": body("report_data", FACTS.report_data[:32] + b"\1" * 32)(FACTS)},
        {"report-data"},
    ),
    "variant": ({"facts": header(variant="development"), "policy": samples.SIMULATED}, {"variant"}),
    "development": ({"facts": header(variant="development")}, {"variant", "development"}),
    "purpose": ({"facts": header(purpose="key-release")}, {"purpose"}),
    "stage": ({"facts": header(stage="booting")}, {"stage"}),
    "no agent events": ({"facts": dataclasses.replace(FACTS, agent_events=())}, {"agent-events"}),
    "failed": (
        {"facts": dataclasses.replace(FACTS, agent_events=(*FACTS.agent_events, agent.failed_event()))},
        {"agent-events"},
    ),
    "no shapes": (
        {"expected": Expected(dataclasses.replace(samples.PREDICATE, launches=()), "x")},
        {"shapes"},
    ),
    "qe vendor": (
        {
            "facts": dataclasses.replace(
                FACTS,
                quote=dataclasses.replace(
                    FACTS.quote, header=dataclasses.replace(FACTS.quote.header, qe_vendor=bytes(16))
                ),
            )
        },
        {"qe-vendor"},
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
        {"signature": dataclasses.replace(GENUINE, quote_sha256="00" * 32)},
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
    facts = samples.with_body(FACTS, mr_service_td=bytes(48))
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
    facts = samples.with_body(rtmr(2)(header(purpose="key-release")), mr_td=FLIP_48, xfam=FLIP_8)
    verdict = judge(facts=facts, nonce=None, signature=dataclasses.replace(GENUINE, tcb_status="OutOfDate"))
    assert codes(verdict) == {"rtmr2", "purpose", "mrtd", "xfam", "nonce", "tcb-status"}
    text = render(verdict)
    assert all(code in text for code in codes(verdict))
    assert verdict.to_dict()["refusals"][0].keys() == {"code", "got", "expected", "where"}


def test_a_mix_of_two_shapes_is_no_shape() -> None:
    values = list(FACTS.quote.body.rtmrs)
    first, second = samples.PREDICATE.launches
    values[0] = first.accepted("rtmr0")[0]
    mixed = (samples.with_register(first, "mrtd", FLIP_48), second)
    expected = Expected(dataclasses.replace(samples.PREDICATE, launches=mixed), "x")
    verdict = judge(facts=samples.with_body(FACTS, rtmrs=tuple(values)), expected=expected)
    assert verdict.outcome is Outcome.REFUSED
    assert len(verdict.refusals) == 1


def test_the_two_pass_mrtd_is_accepted_too() -> None:
    assert judge(facts=samples.with_body(FACTS, mr_td=samples.PREDICATE.launches[1].accepted("mrtd")[1])).accepted


def test_refusal_codes_are_known_ones() -> None:
    with pytest.raises(ValueError, match="not defined"):
        Refusal("nonsense", "", "")
    assert all(register in CODES for register in TDX_REGISTERS)
    assert isinstance(SIGNATURE, QuoteFacts)


def test_the_documentation_lists_every_refusal_code() -> None:
    text = (samples.REPOSITORY / "docs/VERIFYING.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \|", text.partition("## Refusal codes")[2], re.MULTILINE)
    listed = [code.strip("`") for row in rows for code in row.split(", ")]
    assert sorted(listed) == sorted(CODES)


def test_a_real_server_meets_the_strict_policy() -> None:
    """A genuine quote over our document is refused for what it measures and binds, and for nothing else."""
    data = (samples.VECTORS / "tdx_quote.bin").read_bytes()
    collateral = decode_collateral(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes()))
    signed = check(data, collateral, now=1_750_420_000)
    parsed = quote.parse(data)
    facts = dataclasses.replace(FACTS, quote=parsed, quote_sha256=hashlib.sha256(data[:4936]).hexdigest())
    image = {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report-data"}
    assert codes(judge(facts=facts, signature=signed)) == image | {"tcb-evaluation-number"}
    assert codes(judge(facts=facts, signature=signed, policy=Policy(min_tcb_evaluation_number=17))) == image
