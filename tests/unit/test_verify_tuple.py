"""The tuple: the honest document is accepted, and each single bent part gives exactly its own refusal.

What only TDX has is in `test_verify_tdx`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import attestation_samples as samples
import pytest
import test_client_trust as published_cases
import test_verify_nvidia as gpu_cases
import test_verify_receipts as receipt_cases
import test_verify_snp as snp_cases
import test_verify_tdx as tdx_cases
from sealed_guest import X25519, SealedGuest

from privml.events import agent
from privml.events.event import Evidence
from privml.events.registers import MRTD, REGISTERS, RTMR0, RTMR3, TDX_REGISTERS, ZERO
from privml.events.replay import replay_digests
from privml.events.stages import STAGES
from privml.evidence.facts import Facts
from privml.evidence.sections import STAGE_OF, Header, Keys
from privml.evidence.tdx import claims as tdx_claims
from privml.evidence.tees import KINDS
from privml.statement.exceptions import DeclaredException
from privml.statement.index import State
from privml.statement.launch import Accepted, FilledBy, MeasuredLaunch
from privml.verify import check
from privml.verify.anchor import Built, Expected, Published
from privml.verify.check import CODES, RULES
from privml.verify.policy import Policy
from privml.verify.report import render
from privml.verify.rules import Check, refuses
from privml.verify.tdx import TdxPolicy
from privml.verify.verdict import Outcome, Refusal, Verdict

FACTS = samples.facts_of(samples.document())
SIGNATURE = samples.signature_of(samples.document())
GENUINE = samples.genuine(SIGNATURE)
SAMPLE = tdx_claims.read((samples.VECTORS / "tdx_quote.bin").read_bytes())
FLIP_48 = b"\1" * 48


def judge(**changes: Any) -> Verdict:
    """The verdict on genuine hardware under the strict policy."""
    return samples.judge(**{"signature": GENUINE, "policy": Policy(), **changes}).verdict


def codes(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals}


def expecting(**changes: Any) -> Expected:
    """The honest image's statement, changed."""
    return Expected(dataclasses.replace(samples.PREDICATE, **changes), Built("out/demo-cpu"))


def test_the_honest_document_is_accepted() -> None:
    verdict = judge()
    assert (verdict.outcome, verdict.refusals, verdict.exit_code) == (Outcome.ACCEPTED, (), 0)
    assert verdict.shape == "qemu-11-q35, 4 vcpus, 4096 MiB"
    assert render(verdict).startswith("ACCEPTED: demo-cpu (production), against the build in out/demo-cpu\n")


def test_the_honest_simulation_is_accepted_as_such() -> None:
    verdict = judge(signature=SIGNATURE, policy=samples.SIMULATED)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.ACCEPTED_SIMULATED, 10)
    assert not verdict.accepted
    assert render(verdict).startswith("ACCEPTED-SIMULATED (no hardware vouches for this): demo-cpu")


def test_an_anchor_names_its_source() -> None:
    said = "version 1.2.0 (serial 3), signed by 2 of 3 publishers (aa, bb), rebuilt by ann"
    anchor = Published(
        "demo-cpu",
        "1.2.0",
        3,
        State.CURRENT,
        "",
        None,
        1,
        ("aa", "bb"),
        2,
        3,
        0,
        rebuilders=("ann",),
        rebuilders_asked=1,
    )
    verdict = judge(expected=Expected(samples.PREDICATE, anchor))
    assert verdict.to_dict()["anchor"] == said
    assert render(verdict).startswith(f"ACCEPTED: demo-cpu (production), against {said}\n")


def register(name: str) -> Callable[[Facts], Facts]:
    return lambda facts: samples.with_register(facts, name, FLIP_48)


def header(**changes: str) -> Facts:
    return dataclasses.replace(FACTS, header=dataclasses.replace(Header("production", "tdx"), **changes))


def no_keys() -> Facts:
    return dataclasses.replace(FACTS, keys=Keys(()))


def logged(*events: agent.AgentEvent) -> Facts:
    return dataclasses.replace(FACTS, agent_events=events)


def open_launch(register: str, value: FilledBy | None) -> MeasuredLaunch:
    """The honest launch, with a register that has no accepted values."""
    launch = samples.PREDICATE.launches[1]
    return dataclasses.replace(launch, registers={**launch.registers, register: value})


PKS = bytes.fromhex("0000005000000000")
UNUSED: dict[str, Any] = {
    "facts": samples.with_register(FACTS, RTMR3, ZERO),
    "expected": expecting(
        purposes={"serve": 4, "key-release": 1},
        launches=(samples.with_values(samples.PREDICATE.launches[1], RTMR3, ZERO),),
    ),
}
EXCEPTION = DeclaredException("kernel-option", "a", "none")

# What is bent -> the refusals that must follow, and no other.
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    **{name: ({"facts": register(name)(FACTS)}, {name}) for name in TDX_REGISTERS},
    "report data": ({"facts": samples.with_claims(FACTS, report_data=FLIP_48[:32] + bytes(32))}, {"report-data"}),
    "report data upper half": (
        {"facts": samples.with_claims(FACTS, report_data=FACTS.report_data[:32] + b"\1" * 32)},
        {"report-data"},
    ),
    "nonce": ({"nonce": bytes(32)}, {"nonce"}),
    "nonce missing": ({"nonce": None}, {"nonce"}),
    "nonce short": ({"nonce": b""}, {"nonce"}),
    "key": ({"tls_spki_sha256": bytes(32)}, {"tls-key"}),
    "key missing": ({"tls_spki_sha256": None}, {"tls-key"}),
    "no channel key": ({"channel_record": b"{}"}, {"channel-key"}),
    "no channel record": (
        {"facts": dataclasses.replace(FACTS, keys=SealedGuest([X25519]).keys), "channel_record": b""},
        {"channel-record"},
    ),
    "no tls key": ({"facts": no_keys()}, {"tls-key"}),
    "no tls key, no connection": ({"facts": no_keys(), "tls_spki_sha256": None}, {"tls-key"}),
    "carried, without a release key": (
        {
            "facts": header(purpose="key-release", stage="keys"),
            "policy": Policy(purpose="key-release"),
            "expected": expecting(purposes={"key-release": 4}),
            "tls_spki_sha256": None,
            "carried": True,
        },
        {"release-key"},
    ),
    "variant": ({"facts": header(variant="development"), "policy": samples.SIMULATED}, {"variant"}),
    "development": ({"facts": header(variant="development")}, {"variant", "development"}),
    "purpose": ({"facts": header(purpose="key-release")}, {"purpose"}),
    "stage": ({"facts": header(stage="keys")}, {"stage"}),
    "another purpose at its stage": (
        {"facts": header(purpose="key-release", stage="keys")},
        {"purpose", "stage"},
    ),
    "no agent events": ({"facts": logged()}, {"agent-events"}),
    "failed": ({"facts": logged(*FACTS.agent_events, agent.failed_event())}, {"agent-events"}),
    "purpose that the image does not serve": (
        {
            "facts": header(purpose="key-release", stage="keys"),
            "policy": Policy(purpose="key-release"),
        },
        {"purpose"},
    ),
    "stage of another purpose": (
        {
            "facts": header(purpose="key-release"),
            "policy": Policy(purpose="key-release"),
            "expected": expecting(purposes={"key-release": 4}),
        },
        {"stage"},
    ),
    "more events than the purpose has": (
        {"expected": expecting(purposes={"serve": 3})},
        {"rtmr3", "agent-events"},
    ),
    "no shapes": ({"expected": expecting(launches=())}, {"shapes"}),
    "another tee's shapes": (
        {"expected": expecting(launches=(dataclasses.replace(samples.PREDICATE.launches[0], tee="snp"),))},
        {"shapes"},
    ),
    "register without a value": ({"expected": expecting(launches=(open_launch(RTMR0, None),))}, {"unpinned"}),
    "register that others fill": (
        {"expected": expecting(launches=(open_launch(MRTD, FilledBy("a cloud")),))},
        {"unpinned"},
    ),
    "unused register": (UNUSED, {"runtime-unused"}),
    "exception": ({"expected": expecting(exceptions=(EXCEPTION,))}, {"exceptions"}),
    "other exception": (
        {"expected": expecting(exceptions=(EXCEPTION,)), "policy": Policy(exceptions=frozenset({"kernel-option:b"}))},
        {"exceptions"},
    ),
    "simulated": ({"signature": SIGNATURE}, {"simulated"}),
    "other root": ({"signature": dataclasses.replace(GENUINE, root_sha256="00" * 32)}, {"root"}),
    "published evidence": (
        {"facts": samples.with_claims(FACTS, registers=SAMPLE.registers, report_data=SAMPLE.report_data)},
        {"sample-evidence", "report-data", *TDX_REGISTERS},
    ),
    "published nonce": ({"facts": dataclasses.replace(FACTS, nonce=bytes(32))}, {"sample-evidence", "nonce"}),
    "other simulation": (
        {"signature": SIGNATURE, "policy": Policy(allow_simulated=b"another root")},
        {"root"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_changed_part_has_its_own_refusal(name: str) -> None:
    changes, wanted = CASES[name]
    verdict = judge(**changes)
    assert codes(verdict) == wanted
    assert (verdict.outcome, verdict.exit_code) == (Outcome.REFUSED, 8)
    assert render(verdict).startswith("REFUSED: ")


def test_every_code_is_given_by_some_case() -> None:
    every = (CASES, tdx_cases.CASES, snp_cases.CASES, gpu_cases.CASES)
    tried = [wanted for cases in every for _, wanted in cases.values()]
    assert set(published_cases.CASES).union(receipt_cases.CODES, *tried) == set(CODES)


def test_refusal_codes_are_unique() -> None:
    with pytest.raises(ValueError, match="`root` is used by two checks"):
        check._union((check.origin, check.header, Check({"root": "again"}, check.origin.find)))


def test_a_check_gives_only_codes_that_it_declares() -> None:
    @refuses({"nonce": "another nonce"})
    def wrong(subject: object) -> Any:
        yield Refusal("nonsense", "", "")

    with pytest.raises(ValueError, match="refusal code `nonsense` is not one of this check's: nonce"):
        list(wrong(None))


def test_every_tee_has_its_policy_and_says_what_its_registers_mean() -> None:
    assert set(RULES) == set(KINDS)
    assert set(RULES) <= {field.name for field in dataclasses.fields(Policy)}
    for tee, rules in RULES.items():
        assert tuple(rules.registers) == REGISTERS[tee]


def test_the_guide_lists_exactly_these_codes() -> None:
    text = (samples.REPOSITORY / "docs" / "VERIFYING.md").read_text()
    table = text.partition("## Refusal codes")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    listed = [code for cell in first_cells for code in re.findall(r"`([a-z0-9-]+)`", cell)]
    assert sorted(listed) == sorted(CODES)


def test_every_policy_field_is_used() -> None:
    """A policy that nobody can meet in one field refuses the honest document for that field."""
    impossible = {
        "purpose": {"purpose", "stage"},
        "allow_simulated": {"simulated"},
        "allow_unused_runtime": {"runtime-unused"},
        "tdx": {"td-attributes"},
        "snp": {"vmpl"},
        "nvidia": {"gpu-device"},
    }
    # They only loosen: the case `exception` has one. Published versions have cases of their own (test_client_trust).
    loosening = {"exceptions", "allow_demonstration"}
    assert {*impossible, *loosening, "published"} == {field.name for field in dataclasses.fields(Policy)}
    assert codes(judge(policy=Policy(purpose="key-release"))) == impossible["purpose"]
    assert codes(judge(signature=SIGNATURE, policy=Policy(allow_simulated=None))) == impossible["allow_simulated"]
    assert codes(judge(**UNUSED)) == impossible["allow_unused_runtime"]
    assert codes(judge(policy=Policy(tdx=TdxPolicy(td_attributes=PKS)))) == impossible["tdx"]
    assert codes(snp_cases.judge(**snp_cases.policy(vmpl=3))) == impossible["snp"]
    other_device = gpu_cases.policy(devices=frozenset({bytes(8)}))
    assert codes(gpu_cases.gpus.judge(policy=other_device)) == impossible["nvidia"]


@pytest.mark.parametrize(("purpose", "count"), [("serve", 4), ("key-release", 1)])
def test_each_purpose_has_its_stage_and_its_first_events(purpose: str, count: int) -> None:
    """RTMR3 and the log are what the statement says for the purpose, whatever this version's own order of stages."""
    made = samples.document(agent_events=samples.AGENT_EVENTS[:count])
    facts = dataclasses.replace(
        samples.facts_of(made), header=Header("production", "tdx", purpose, STAGE_OF[purpose])
    )
    facts = samples.with_claims(facts, report_data=facts.report_data)
    signature = dataclasses.replace(GENUINE, evidence_sha256=facts.claims.evidence_sha256)
    expected = expecting(purposes={purpose: count})
    assert judge(facts=facts, signature=signature, policy=Policy(purpose=purpose), expected=expected).accepted


def test_an_order_of_events_that_no_stage_table_has_is_verified_by_the_predicate() -> None:
    """Another version's agent may extend in another order; this version's table is never asked."""
    events = samples.AGENT_EVENTS[::-1]
    known = [name for stage in STAGES for name in stage.events]
    assert [event.name for event in events] != sorted((event.name for event in events), key=known.index)
    made = samples.document(agent_events=events)
    facts = samples.facts_of(made)
    signature = dataclasses.replace(GENUINE, evidence_sha256=facts.claims.evidence_sha256)
    replayed = replay_digests(agent.digests(events))
    launch = samples.with_values(samples.PREDICATE.launches[1], RTMR3, replayed)
    expected = expecting(agent_events=events, purposes={"serve": len(events)}, launches=(launch,))
    assert judge(facts=facts, signature=signature, expected=expected).accepted
    usual = samples.with_values(samples.PREDICATE.launches[1], RTMR3, replay_digests(agent.digests(events[::-1])))
    assert codes(judge(facts=facts, signature=signature, expected=expecting(launches=(usual,)))) == {
        "agent-events",
        "rtmr3",
    }


def test_a_register_that_the_kernel_cannot_extend_stays_zero_for_every_purpose() -> None:
    accepted = judge(**UNUSED, policy=Policy(allow_unused_runtime=True))
    assert accepted.accepted
    assert [each.code for each in accepted.relaxed] == ["runtime-unused"]
    assert [note for note in accepted.notes if note.startswith("RTMR3: unused")]
    assert not [note for note in judge().notes if "unused" in note]
    assert codes(judge(expected=UNUSED["expected"], policy=Policy(allow_unused_runtime=True))) == {"rtmr3"}


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (None, "RTMR0: not compared, the statement has no value"),
        (FilledBy("a cloud"), "RTMR0: not compared, the statement leaves it to a cloud"),
    ],
)
def test_a_development_image_may_leave_a_register_open_and_the_verdict_says_so(
    value: FilledBy | None, note: str
) -> None:
    expected = expecting(variant="development", launches=(open_launch(RTMR0, value),))
    facts = samples.with_register(header(variant="development"), RTMR0, FLIP_48)
    verdict = judge(facts=facts, expected=expected, policy=samples.SIMULATED)
    assert verdict.outcome is Outcome.ACCEPTED_SIMULATED
    assert note in verdict.notes


def test_the_second_line_names_registers_that_were_learnt() -> None:
    launch = samples.PREDICATE.launches[1]
    levels = {MRTD: Evidence.ENDORSED, RTMR0: Evidence.LEARNT}
    known = {name: Accepted(launch.accepted(name), level) for name, level in levels.items()}
    of_cloud = dataclasses.replace(launch, registers={**launch.registers, **known})
    verdict = judge(expected=expecting(launches=(of_cloud,)))
    assert verdict.accepted and verdict.learnt == (RTMR0,) and verdict.to_dict()["learnt"] == ["rtmr0"]
    lines = render(verdict).splitlines()
    assert lines[1] == "  learnt: RTMR0, copied from captures of machines; no rule predicts the value"
    assert "prediction: weakest register RTMR0, learnt from captures" in verdict.notes
    assert "MRTD: a value that the firmware's vendor signed; nothing here computes it" in verdict.notes
    assert judge().learnt == () and "learnt" not in render(judge())
    refused = judge(facts=register(RTMR0)(FACTS), expected=expecting(launches=(of_cloud,)))
    assert codes(refused) == {"rtmr0"} and render(refused).splitlines()[1].startswith("  learnt: RTMR0")


def test_a_policy_for_an_unknown_purpose_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="purpose `test`, expected one of serve, key-release"):
        Policy(purpose="test")


def test_development_is_never_accepted_as_genuine() -> None:
    expected = expecting(variant="development")
    facts = header(variant="development")
    assert codes(judge(facts=facts, expected=expected)) == {"development"}
    allowed = judge(facts=facts, expected=expected, policy=samples.SIMULATED)
    assert allowed.outcome is Outcome.ACCEPTED_SIMULATED


def test_all_reasons_are_given_at_once() -> None:
    facts = samples.with_field(header(purpose="key-release"), "xfam", bytes(8))
    for name in ("rtmr2", "mrtd"):
        facts = register(name)(facts)
    verdict = judge(facts=facts, nonce=None, signature=dataclasses.replace(GENUINE, platform=tdx_cases.OLD))
    assert [refusal.code for refusal in verdict.refusals] == [
        "tcb-status", "xfam", "mrtd", "rtmr2", "nonce", "purpose",
    ]  # fmt: skip
    text = render(verdict)
    assert all(code in text for code in codes(verdict))
    assert verdict.to_dict()["refusals"][0].keys() == {"code", "got", "expected", "where"}


def test_a_mix_of_two_shapes_is_refused() -> None:
    first, second = samples.PREDICATE.launches
    expected = expecting(launches=(samples.with_values(first, MRTD, FLIP_48), second))
    verdict = judge(facts=samples.with_register(FACTS, RTMR0, *first.accepted(RTMR0)), expected=expected)
    assert verdict.outcome is Outcome.REFUSED
    assert len(verdict.refusals) == 1


def test_the_two_pass_mrtd_is_accepted_too() -> None:
    assert judge(facts=samples.with_register(FACTS, MRTD, samples.PREDICATE.launches[1].accepted(MRTD)[1])).accepted
