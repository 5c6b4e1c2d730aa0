"""Platforms that Intel would not vouch for, made with the simulated PKI, end to end: each has its own refusal."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import attestation_samples as samples
import pytest
from sim_platforms import DATE, MODULE_SVN, Platform, codes, level, module, qe_levels, with_module

from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx.claims import QuoteFacts, TcbLevel
from privml.sim import pki
from privml.sim.pki import Variation
from privml.verify.policy import Policy
from privml.verify.tdx import PLATFORM_STATUSES, TdxPolicy

UP, OLD = "UpToDate", "OutOfDate"
ATTRIBUTES = 120  # offset of TD_ATTRIBUTES in a TD report
LATER = pki.NOT_BEFORE + timedelta(days=30)  # before the samples' time
FUTURE = pki.NOT_AFTER - timedelta(days=30)
MODULE = ((MODULE_SVN, UP), (2, OLD))


def tdx(**changes: Any) -> Policy:
    """A policy that allows the simulation, with another TDX policy."""
    return dataclasses.replace(samples.SIMULATED, tdx=TdxPolicy(**changes))


def tcb_info(**changes: Any) -> Platform:
    return Platform(Variation(tcb_info=changes))


def qe_identity(**changes: Any) -> Platform:
    return Platform(Variation(qe_identity=changes))


def current(*levels: tuple[int, str], svn: int, **changes: Any) -> Platform:
    """A version 5 quote from a machine whose module has been updated to ``svn`` since the TD was started."""
    return with_module(*levels, current=bytes([svn, 1]) + bytes([7]) + bytes(13), **changes)


# The platform, and the only refusal that must follow under the strict policy (None: accepted).
PLATFORMS: dict[str, tuple[Platform, str | None]] = {
    "honest": (Platform(), None),
    "honest with a module of version 1": (with_module(*MODULE), None),
    "honest, version 5": (current(*MODULE, svn=MODULE_SVN), None),
    "honest, the platform's level names a later module": (
        dataclasses.replace(
            with_module(),
            how=Variation(
                tcb_info={
                    "tcbLevels": [
                        level(UP, tdxtcbcomponents=[{"svn": 9}, {"svn": 0}, {"svn": 7}, *({"svn": 0},) * 13])
                    ],
                    "tdxModuleIdentities": [module(*MODULE)],
                }
            ),
        ),
        None,
    ),
    "another machine is revoked": (Platform(Variation(revoked={"pck_crl": (99,)})), None),
    **{
        f"platform {status}": (tcb_info(tcbLevels=[level(status, "INTEL-SA-00001")]), "tcb-status")
        for status in PLATFORM_STATUSES[1:]
    },
    "platform with an unknown status": (tcb_info(tcbLevels=[level("Splendid")]), "quote-signature"),
    "platform at a revoked level": (tcb_info(tcbLevels=[level("Revoked")]), "revoked"),
    "platform below every level": (tcb_info(tcbLevels=[level(UP, pcesvn=pki.PCE_SVN + 1)]), "quote-signature"),
    "stale module": (with_module((MODULE_SVN + 1, UP), (2, OLD)), "tdx-module-status"),
    "module at a revoked level": (with_module((MODULE_SVN + 1, UP), (2, "Revoked")), "revoked"),
    "module below every level": (with_module((MODULE_SVN + 1, UP)), "quote-signature"),
    "module without an identity": (
        dataclasses.replace(with_module(), how=Variation(tcb_info={"tdxModuleIdentities": [module(version=3)]})),
        "quote-signature",
    ),
    "updated after the TD was started": (current((9, UP), (2, OLD), svn=9), "tdx-module-status"),
    "rolled back after the TD was started": (current(*MODULE, svn=3), "tdx-module-status"),
    "old quoting enclave": (qe_identity(**qe_levels((pki.QE_ISV_SVN + 1, UP), (1, OLD))), "qe-status"),
    "quoting enclave at a revoked level": (qe_identity(**qe_levels((1, "Revoked"))), "revoked"),
    "old TCB info": (tcb_info(tcbEvaluationDataNumber=17), "tcb-evaluation-number"),
    "old QE identity": (qe_identity(tcbEvaluationDataNumber=17), "tcb-evaluation-number"),
    "another platform's TCB info": (tcb_info(fmspc="000000000000"), "collateral-platform"),
    "another PCE's TCB info": (tcb_info(pceId="0001"), "collateral-platform"),
    "SGX TCB info": (tcb_info(id="SGX"), "quote-signature"),
    "no levels": (tcb_info(tcbLevels=[]), "quote-signature"),
    "another enclave": (qe_identity(mrsigner="00" * 32), "quote-signature"),
    "another product": (qe_identity(isvprodid=1), "quote-signature"),
    "expired TCB info": (tcb_info(nextUpdate="2026-02-01T00:00:00Z"), "collateral-expired"),
    "expired QE identity": (qe_identity(nextUpdate="2026-02-01T00:00:00Z"), "collateral-expired"),
    "TCB info from the future": (tcb_info(issueDate="2040-01-01T00:00:00Z"), "collateral-future"),
    "QE identity from the future": (qe_identity(issueDate="2040-01-01T00:00:00Z"), "collateral-future"),
    **{
        f"{name} {what}": (Platform(Variation(list_dates={name: dates})), code)
        for name in ("pck_crl", "root_ca_crl")
        for what, dates, code in (
            ("expired", (pki.NOT_BEFORE, LATER), "collateral-expired"),
            ("from the future", (FUTURE, pki.NOT_AFTER), "collateral-future"),
        )
    },
    "revoked machine": (Platform(Variation(revoked={"pck_crl": (pki.PCK_SERIAL,)})), "revoked"),
    "revoked PCK CA": (Platform(Variation(revoked={"root_ca_crl": (pki.CA_SERIAL,)})), "revoked"),
    "revoked TCB signer": (Platform(Variation(revoked={"root_ca_crl": (pki.TCB_SERIAL,)})), "revoked"),
    "TCB info signed by another role": (Platform(Variation(signer_name="PCK Certificate")), "collateral-role"),
    "debug TD": (Platform(flips=((ATTRIBUTES, b"\1"),)), "td-attributes"),
    "migratable TD": (Platform(flips=((ATTRIBUTES + 3, b"\x30"),)), "td-attributes"),
    "TD without SEPT_VE_DISABLE": (Platform(flips=((ATTRIBUTES + 3, b"\0"),)), "td-attributes"),
    "service TD": (current(*MODULE, svn=MODULE_SVN, service_td=b"\1" * 48), "mrservicetd"),
}


@pytest.mark.parametrize("name", PLATFORMS)
def test_each_platform_has_its_own_refusal(name: str) -> None:
    platform, code = PLATFORMS[name]
    found = codes(platform.verdict())
    # The library has an opinion of its own on these two, and then gives no facts of the platform.
    if code in ("td-attributes", "mrservicetd"):
        found = [each for each in found if each != "quote-signature"]
    assert found == ([] if code is None else [code])


def test_the_three_statuses_are_read_separately() -> None:
    platform = dataclasses.replace(
        with_module((MODULE_SVN + 1, UP), (2, OLD)),
        how=Variation(
            tcb_info={
                "tcbLevels": [level("SWHardeningNeeded", "INTEL-SA-00001", date="2026-02-02T00:00:00Z")],
                "tdxModuleIdentities": [module((MODULE_SVN + 1, UP), (2, OLD))],
            },
            qe_identity=qe_levels((pki.QE_ISV_SVN + 1, UP), (1, OLD)),
        ),
    )
    facts = platform.check()
    assert isinstance(facts, QuoteFacts)
    assert facts.platform == TcbLevel("SWHardeningNeeded", "2026-02-02", ("INTEL-SA-00001",))
    assert facts.module == TcbLevel(OLD, DATE[:10], ("INTEL-SA-00009",))
    assert facts.qe == TcbLevel(OLD, DATE[:10])
    assert set(facts.advisory_ids) == {"INTEL-SA-00001", "INTEL-SA-00009"}
    verdict = platform.verdict()
    assert [(refusal.code, refusal.got) for refusal in verdict.refusals] == [
        ("tcb-status", "SWHardeningNeeded (INTEL-SA-00001)"),
        ("tdx-module-status", "OutOfDate (INTEL-SA-00009)"),
        ("qe-status", OLD),
    ]
    accepted = {"tcb_statuses": {"SWHardeningNeeded"}, "module_statuses": {OLD}, "qe_statuses": {OLD}}
    for name, statuses in accepted.items():
        left = codes(platform.verdict(tdx(**{name: frozenset(statuses)})))
        assert len(left) == 2
    assert codes(platform.verdict(tdx(**{name: frozenset(each) for name, each in accepted.items()}))) == []


def test_levels_in_an_order_on_which_the_library_disagrees_are_refused() -> None:
    failure = with_module(*MODULE[::-1]).check()
    assert isinstance(failure, SignatureFailure)
    assert failure.code == "quote-signature"
    assert failure.reason == "the QVL says OutOfDate, but each level of the collateral is UpToDate"


def test_a_module_of_version_0_is_part_of_the_platform() -> None:
    facts = Platform().check()
    assert isinstance(facts, QuoteFacts)
    assert facts.module is None
    assert "TDX module part of the platform" in Platform().verdict().notes[0]


def test_a_version_5_quote_says_what_the_machine_is_now() -> None:
    facts = current((9, UP), (2, OLD), svn=9).check()
    assert isinstance(facts, QuoteFacts)
    assert facts.module is not None and facts.module.status == OLD
    assert facts.current_module is not None and facts.current_module.status == UP
    rolled_back = current(*MODULE, svn=3).verdict()
    assert rolled_back.refusals[0].got == "OutOfDate (INTEL-SA-00009), as the machine is now"


def test_a_quote_without_mrservicetd_is_noted_and_a_policy_can_refuse_it() -> None:
    verdict = Platform().verdict()
    assert [note for note in verdict.notes if note.startswith("MRSERVICETD: not shown")]
    assert codes(Platform().verdict(tdx(require_mrservicetd=True))) == ["mrservicetd-unknown"]
    shown = current(*MODULE, svn=MODULE_SVN).verdict(tdx(require_mrservicetd=True))
    assert codes(shown) == []
    assert not [note for note in shown.notes if note.startswith("MRSERVICETD")]


def test_what_the_pck_certificate_says_of_the_machine_is_noted() -> None:
    instance = bytes(range(16))
    platform = Platform(Variation(flags=(True, False, True), instance=instance))
    facts = platform.check()
    assert isinstance(facts, QuoteFacts)
    assert (facts.dynamic_platform, facts.cached_keys, facts.smt_enabled) == (True, False, True)
    verdict = platform.verdict(tdx(platform_instances=frozenset({instance}), platforms=frozenset({pki.PPID})))
    assert codes(verdict) == []
    assert f"machine: PPID {pki.PPID.hex()}, PIID {instance.hex()}" in verdict.notes
    assert "PCK certificate: dynamicPlatform yes, cachedKeys no, smtEnabled yes" in verdict.notes
    assert codes(Platform().verdict(tdx(platform_instances=frozenset({instance})))) == ["platform-instance"]


def test_ages_are_counted_from_the_callers_time_for_genuine_collateral_only() -> None:
    facts = Platform().check()
    assert isinstance(facts, QuoteFacts)
    assert codes(samples.judge(signature=facts).verdict) == []
    genuine = dataclasses.replace(samples.genuine(facts), validity=facts.validity)
    found = samples.judge(signature=genuine, policy=Policy()).verdict
    days = (samples.NOW - facts.validity[0].issued) // 86400
    assert [(refusal.code, refusal.got) for refusal in found.refusals] == [
        ("collateral-age", f"{name}, {days} days") for name in ("tcb_info", "qe_identity", "pck_crl")
    ]
    older = Policy(tdx=TdxPolicy(max_collateral_age_days=days + 1, max_root_crl_age_days=days - 1))
    assert [refusal.got for refusal in samples.judge(signature=genuine, policy=older).verdict.refusals] == [
        f"root_ca_crl, {days} days"
    ]


def test_a_simulated_part_may_not_outlive_its_dates_either() -> None:
    failure = Platform().check(now=int(pki.NOT_BEFORE.timestamp()) - 1)
    assert isinstance(failure, SignatureFailure)
    assert failure.code == "collateral-future"
    assert failure.reason == "tcb_info issued 2026-01-01T00:00:00Z"


# Where the fields of a TD 1.0 report begin, and the refusal that a really signed change must cause.
SIGNED_CHANGES = {
    64: "mrsignerseam",
    112: "seam-attributes",
    123: "td-attributes",
    128: "xfam",
    136: "mrtd",
    184: "mrconfigid",
    232: "mrowner",
    280: "mrownerconfig",
    328: "rtmr0",
    376: "rtmr1",
    424: "rtmr2",
    472: "rtmr3",
    520: "report-data",
    583: "report-data",
}


@pytest.mark.parametrize("at", SIGNED_CHANGES)
def test_a_change_that_the_platform_itself_signed(at: int) -> None:
    """The signature is good, so only the tuple stands between this TD and the prompt."""
    byte = samples.document().evidence[48 + at] ^ 0x20
    found = set(codes(Platform(flips=((at, bytes([byte])),)).verdict()))
    # The library has an opinion of its own on the module's signer and on reserved attributes.
    assert SIGNED_CHANGES[at] in found
    assert found <= {SIGNED_CHANGES[at], "quote-signature"}
