"""What only TDX has: every field of a TD report, what Intel says of the platform, and a real server's quote."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import attestation_samples as samples
import pytest

from privml.base.strictjson import loads
from privml.evidence.claims import SignatureFailure, Validity
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote
from privml.evidence.tdx.claims import TcbLevel, read
from privml.evidence.tdx.signature import check
from privml.verify.policy import Policy
from privml.verify.tdx import RULES, TdxPolicy
from privml.verify.verdict import Verdict

FACTS = samples.facts_of(samples.document())
SIGNATURE = samples.signature_of(samples.document())
GENUINE = samples.genuine(SIGNATURE)
V5 = (samples.VECTORS / "tdx_quote_v5.bin").read_bytes()
OLD = TcbLevel("OutOfDate", "2026-01-01")
FLIP_8 = bytes.fromhex("0100000000000000")
FLIP_48 = b"\1" * 48
THIS_MODULE = Policy(tdx=TdxPolicy(mr_seams=frozenset({FACTS.claims.fields["mrseam"]})))


def judge(**changes: Any) -> Verdict:
    """The verdict on genuine hardware under the strict policy."""
    return samples.judge(**{"signature": GENUINE, "policy": Policy(), **changes}).verdict


def codes(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals}


def checked(**changes: Any) -> dict[str, Any]:
    return {"signature": dataclasses.replace(GENUINE, **changes)}


# Each named value of a TD report, bent: the one refusal that must follow.
FIELDS: dict[str, tuple[bytes, str | None]] = {
    "tee-tcb-svn": (FLIP_48[:16], None),  # judged by the QVL as part of the TCB level
    "tee-tcb-svn2": (FLIP_48[:16], None),
    "qe-vendor": (bytes(16), "qe-vendor"),
    "mrseam": (FLIP_48, "mrseam"),
    "mrsignerseam": (FLIP_48, "mrsignerseam"),
    "seam-attributes": (FLIP_8, "seam-attributes"),
    "td-attributes": (bytes.fromhex("0100001000000000"), "td-attributes"),
    "xfam": (FLIP_8, "xfam"),
    "mrconfigid": (FLIP_48, "mrconfigid"),
    "mrowner": (FLIP_48, "mrowner"),
    "mrownerconfig": (FLIP_48, "mrownerconfig"),
    "mrservicetd": (FLIP_48, "mrservicetd"),
}

# What is bent -> the refusals that must follow, and no other.
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    **{
        name: ({"facts": samples.with_field(FACTS, name, value), "policy": THIS_MODULE}, {code} if code else set())
        for name, (value, code) in FIELDS.items()
    },
    "signature": ({"signature": SignatureFailure("quote-signature", "bad", "good")}, {"quote-signature"}),
    "signature simulated": (
        {"signature": SignatureFailure("quote-signature", "bad", "good", claims_simulated=True)},
        {"simulated"},
    ),
    "signature simulated, allowed": (
        {
            "signature": SignatureFailure("quote-signature", "bad", "good", claims_simulated=True),
            "policy": samples.SIMULATED,
        },
        {"quote-signature"},
    ),
    "collateral": ({"signature": SignatureFailure("collateral-missing", "bad", "good")}, {"collateral-missing"}),
    "chain in the quote": ({"signature": SignatureFailure("pck-chain", "bad", "good")}, {"pck-chain"}),
    "chain of the collateral": (
        {"signature": SignatureFailure("collateral-role", "bad", "good")},
        {"collateral-role"},
    ),
    "collateral in another spelling": (
        {"signature": SignatureFailure("collateral-encoding", "bad", "good")},
        {"collateral-encoding"},
    ),
    "another quote's signature": (checked(evidence_sha256="00" * 32), {"quote-signature"}),
    **{
        code: ({"signature": SignatureFailure(code, "bad", "good")}, {code})
        for code in ("collateral-platform", "collateral-expired", "collateral-future", "revoked")
    },
    "platform out of date": (checked(platform=OLD), {"tcb-status"}),
    "platform out of date now": (checked(current_platform=OLD), {"tcb-status"}),
    "module out of date": (checked(module=OLD), {"tdx-module-status"}),
    "module out of date now": (checked(module=GENUINE.platform, current_module=OLD), {"tdx-module-status"}),
    "module out of date now, like the platform": (
        {
            **checked(platform=OLD, module=GENUINE.platform, current_module=OLD),
            "policy": Policy(tdx=TdxPolicy(tcb_statuses=frozenset({"OutOfDate"}))),
        },
        {"tdx-module-status"},
    ),
    "quoting enclave out of date": (checked(qe=OLD), {"qe-status"}),
    "Intel's word on all of them together": (checked(tcb_status="OutOfDate"), set()),
    "tcb date": ({"policy": Policy(tdx=TdxPolicy(min_tcb_date="2026-01-02"))}, {"tcb-date"}),
    "tcb date reached": ({"policy": Policy(tdx=TdxPolicy(min_tcb_date="2026-01-01"))}, set()),
    "tee tcb svn": ({"policy": Policy(tdx=TdxPolicy(min_tee_tcb_svn=b"\3\0\x08" + bytes(13)))}, {"tee-tcb-svn"}),
    "tee tcb svn reached": ({"policy": Policy(tdx=TdxPolicy(min_tee_tcb_svn=b"\3\0\7" + bytes(13)))}, set()),
    "age": (
        checked(validity=(Validity("pck_crl", samples.NOW - 31 * 86400, samples.NOW + 1),)),
        {"collateral-age"},
    ),
    "age of a root list": (
        checked(validity=(Validity("root_ca_crl", samples.NOW - 401 * 86400, samples.NOW + 1),)),
        {"collateral-age"},
    ),
    "age of a root list that is renewed once a year": (
        checked(validity=(Validity("root_ca_crl", samples.NOW - 379 * 86400, samples.NOW + 1),)),
        set(),
    ),
    "evaluation": (checked(tcb_evaluation_number=17), {"tcb-evaluation-number"}),
    "advisory": (
        {
            **checked(advisory_ids=("INTEL-SA-1", "INTEL-SA-2")),
            "policy": Policy(tdx=TdxPolicy(rejected_advisories=frozenset({"INTEL-SA-2"}))),
        },
        {"advisory"},
    ),
    "platform": ({"policy": Policy(tdx=TdxPolicy(platforms=frozenset({bytes(16)})))}, {"platform"}),
    "platform instance": (
        {"policy": Policy(tdx=TdxPolicy(platform_instances=frozenset({bytes(16)})))},
        {"platform-instance"},
    ),
    "no mrservicetd": ({"policy": Policy(tdx=TdxPolicy(require_mrservicetd=True))}, {"mrservicetd-unknown"}),
    "mrseam list": ({"policy": Policy(tdx=TdxPolicy(mr_seams=frozenset({bytes(48)})))}, {"mrseam"}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_changed_part_has_its_own_refusal(name: str) -> None:
    changes, wanted = CASES[name]
    assert codes(judge(**changes)) == wanted


def test_every_field_of_a_td_report_is_judged() -> None:
    claims = read(V5)
    assert set(FIELDS) == set(claims.fields)
    claimed = [*claims.registers.values(), *claims.fields.values(), claims.report_data]
    body = quote.parse(V5).body
    for part in dataclasses.fields(body):
        value = getattr(body, part.name)
        assert all(one in claimed for one in (value if isinstance(value, tuple) else (value,))), part.name


@pytest.mark.parametrize("bit", range(64))
def test_every_td_attribute_is_exact(bit: int) -> None:
    flipped = (int.from_bytes(FACTS.claims.fields["td-attributes"], "little") ^ 1 << bit).to_bytes(8, "little")
    assert codes(judge(facts=samples.with_field(FACTS, "td-attributes", flipped))) == {"td-attributes"}


def test_every_policy_field_is_used() -> None:
    """A policy that nobody can meet in one field refuses the honest document for that field."""
    impossible: dict[str, Any] = {
        "tcb_statuses": frozenset(),
        "module_statuses": frozenset(),
        "qe_statuses": frozenset(),
        "min_tcb_evaluation_number": 2000,
        "min_tcb_date": "2030-01-01",
        "min_tee_tcb_svn": b"\xff" * 16,
        "rejected_advisories": frozenset({"A"}),
        "max_collateral_age_days": 1,
        "max_root_crl_age_days": 1,
        "qe_vendor": bytes(16),
        "td_attributes": bytes.fromhex("0000005000000000"),
        "xfams": frozenset(),
        "mr_seams": frozenset({bytes(48)}),
        "mr_signer_seam": FLIP_48,
        "seam_attributes": FLIP_8,
        "mr_config_id": FLIP_48,
        "mr_owner": FLIP_48,
        "mr_owner_config": FLIP_48,
        "mr_service_td": FLIP_48,
        "platforms": frozenset({bytes(16)}),
        "platform_instances": frozenset({bytes(16)}),
        "require_mrservicetd": True,
    }
    assert set(impossible) == {field.name for field in dataclasses.fields(TdxPolicy)}
    old = tuple(Validity(name, samples.NOW - 2 * 86400, samples.NOW + 1) for name in ("tcb_info", "root_ca_crl"))
    level = TcbLevel("UpToDate", "2030-01-02")
    facts = {"platform": TcbLevel("UpToDate", "2029-01-01"), "module": level, "qe": level}
    shown = samples.with_field(FACTS, "mrservicetd", bytes(48))
    for name, value in impossible.items():
        given = {
            "facts": FACTS if name == "require_mrservicetd" else shown,
            **checked(advisory_ids=("A",), validity=old, **facts),
        }
        assert judge(**given).accepted
        policy = Policy(tdx=dataclasses.replace(TdxPolicy(), **{name: value}))
        assert len(judge(**given, policy=policy).refusals) == 1, name


def test_notes_say_the_patch_level_and_what_the_policy_leaves_open() -> None:
    assert judge(**checked(advisory_ids=("A", "B"))).notes[:5] == (
        "TCB UpToDate, TDX module part of the platform, QE UpToDate, evaluation 1000, FMSPC 53494d554c41",
        "advisories: A, B",
        "machine: PPID 4ee842a710e7944bad8794964a7ed28e, PIID none",
        "PCK certificate: dynamicPlatform not said, cachedKeys not said, smtEnabled not said",
        "MRSEAM: any TDX module that Intel signed, at an accepted TCB level",
    )
    assert not any("MRSEAM" in note for note in judge(policy=THIS_MODULE).notes)
    assert judge(signature=SignatureFailure("quote-signature", "bad", "good")).notes[0].startswith("MRSEAM")


def test_the_pinned_root_is_the_one_that_signatures_are_checked_with() -> None:
    from privml.evidence.tdx.signature import INTEL_ROOT_DER

    assert {hashlib.sha256(INTEL_ROOT_DER).hexdigest()} == RULES.genuine_roots


def test_a_real_server_meets_the_strict_policy() -> None:
    """A genuine quote over our document is refused for what it measures and binds, and for nothing else."""
    data = (samples.VECTORS / "tdx_quote.bin").read_bytes()
    collateral = collaterals.decode(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes()))
    signed = check(data, collateral, now=1_750_420_000)
    facts = dataclasses.replace(FACTS, claims=read(data))
    image = {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report-data", "sample-evidence"}
    assert codes(judge(facts=facts, signature=signed)) == image | {"tcb-evaluation-number"}
    older = Policy(tdx=TdxPolicy(min_tcb_evaluation_number=17))
    assert codes(judge(facts=facts, signature=signed, policy=older)) == image
