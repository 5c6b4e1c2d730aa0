"""Intel TDX: the policy for quotes, and its checks.

Source for the bits of ATTRIBUTES: `td_param_attributes_t` in the module's source (intel/tdx-module, branch tdx_1.5),
and ``arch/x86/include/asm/shared/tdx.h`` of Linux. What a service TD may do: ADR 0050.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR2, RTMR3
from privml.evidence.claims import Validity
from privml.evidence.tdx.claims import QuoteFacts, TcbLevel
from privml.evidence.tdx.quote import INTEL_QE_VENDOR
from privml.verify import policyfield
from privml.verify.policyfield import hex_list, hexadecimal, number, restricted, setting, switch, text, texts
from privml.verify.rules import (
    COLLATERAL_AGE,
    COLLATERAL_CODES,
    TeeCase,
    TeeRules,
    any_of,
    checked_signature,
    refuses,
)
from privml.verify.verdict import Refusal

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of the DER of the Intel SGX Root CA."""

UP_TO_DATE = "UpToDate"
OUT_OF_DATE = "OutOfDate"
PLATFORM_STATUSES = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    OUT_OF_DATE,
    "OutOfDateConfigurationNeeded",
)
"""The statuses that a policy may accept. Intel's other word is Revoked, which none may."""

SEPT_VE_DISABLE = 1 << 28
PKS = 1 << 30
PERFMON = 1 << 63
LASS = 1 << 27
_OPTIONAL = LASS | PKS | PERFMON

ROOT_CRL = "root_ca_crl"
"""The part of the collateral that Intel renews about once a year; the others are renewed every 30 days."""

_ZERO = bytes(48)
_STRICT = frozenset({UP_TO_DATE})
_DAY = 24 * 60 * 60
_DATE = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")


def _attributes_objection(value: bytes) -> str:
    bits = int.from_bytes(value, "little")
    if not bits & SEPT_VE_DISABLE or bits & ~(SEPT_VE_DISABLE | _OPTIONAL):
        return (
            f"got {value.hex()}, expected SEPT_VE_DISABLE and no other bit than LASS, PKS or PERFMON: "
            "a debug or migratable TD is never accepted"
        )
    return ""


def _date_objection(value: str) -> str:
    if not value or _DATE.fullmatch(value):
        return ""
    return f"got `{value[:40]}`, expected YYYY-MM-DD"


@dataclass(frozen=True)
class TdxPolicy:
    """Acceptance criteria for a TD and its platform. Defaults are strict.

    Fields made with `setting` may be set in a policy file. The others have one acceptable value: the quoting enclave
    is Intel's, the module is a production module of Intel's, and no service TD is bound.
    """

    tcb_statuses: frozenset[str] = setting(
        texts(*PLATFORM_STATUSES),
        _STRICT,
        "Accepted TCB statuses of the platform: microcode, BIOS and its configuration.",
        relaxes={"tcb-status"},
    )
    module_statuses: frozenset[str] = setting(
        texts(UP_TO_DATE, OUT_OF_DATE),
        _STRICT,
        "Accepted TCB statuses of the TDX module.",
        relaxes={"tdx-module-status"},
    )
    qe_statuses: frozenset[str] = setting(
        texts(UP_TO_DATE, OUT_OF_DATE),
        _STRICT,
        "Accepted TCB statuses of the quoting enclave.",
        relaxes={"qe-status"},
    )
    min_tcb_evaluation_number: int = setting(
        number(0, 1 << 31),
        18,
        "The lowest accepted tcbEvaluationDataNumber. Older collateral can hide a known vulnerability. "
        "18 was Intel's current number on 2026-01-12.",
        relaxes={"tcb-evaluation-number"},
        strictest=max,
    )
    min_tcb_date: str = setting(
        restricted(text(), _date_objection, pattern=f"^({_DATE.pattern})?$"),
        "",
        "The earliest accepted tcbDate (YYYY-MM-DD) of platform, TDX module and quoting enclave. Empty: any date.",
        sets={"tcb-date"},
    )
    min_tee_tcb_svn: bytes = setting(
        hexadecimal(16), bytes(16), "The lowest accepted value of each byte of TEE_TCB_SVN.", sets={"tee-tcb-svn"}
    )
    rejected_advisories: frozenset[str] = setting(
        texts(),
        frozenset(),
        "Advisories (INTEL-SA-...) that are refused even with an accepted status.",
        sets={"advisory"},
    )
    max_collateral_age_days: int = setting(
        number(1, 3650),
        30,
        "The highest accepted age of TCB info, QE identity and PCK revocation list. Intel renews them every 30 days.",
        relaxes={"collateral-age"},
        strictest=min,
    )
    max_root_crl_age_days: int = setting(
        number(1, 3650),
        400,
        "The highest accepted age of the root CA's revocation list. Intel renews it about once a year.",
        relaxes={"collateral-age"},
        strictest=min,
    )
    platforms: frozenset[bytes] = setting(
        hex_list(16), frozenset(), "Accepted machines by their PPID. Empty: any machine.", sets={"platform"}
    )
    platform_instances: frozenset[bytes] = setting(
        hex_list(16),
        frozenset(),
        "Accepted machines by their platform instance ID. Empty: any machine.",
        sets={"platform-instance"},
    )
    mr_seams: frozenset[bytes] = setting(
        hex_list(48),
        frozenset(),
        "Accepted TDX modules by their MRSEAM. Empty: any module that Intel signed, at an accepted status.",
        sets={"mrseam"},
    )
    xfams: frozenset[bytes] = setting(
        hex_list(8),
        frozenset({bytes.fromhex("e702060000000000"), bytes.fromhex("e71a060000000000")}),
        "Accepted sets of extended features. The defaults are the usual ones, without and with CET.",
        relaxes={"xfam"},
    )
    td_attributes: bytes = setting(
        restricted(hexadecimal(8), _attributes_objection),
        SEPT_VE_DISABLE.to_bytes(8, "little"),
        "The TD's attributes, exactly. Debug and migratable TDs are never accepted.",
        relaxes={"td-attributes"},
    )
    mr_config_id: bytes = setting(hexadecimal(48), _ZERO, "The expected MRCONFIGID.", sets={"mrconfigid"})
    mr_owner: bytes = setting(hexadecimal(48), _ZERO, "The expected MROWNER.", sets={"mrowner"})
    mr_owner_config: bytes = setting(hexadecimal(48), _ZERO, "The expected MROWNERCONFIG.", sets={"mrownerconfig"})
    require_mrservicetd: bool = setting(
        switch(),
        False,
        "Refuse quotes that do not show MRSERVICETD (version 4, which most quoting services send).",
        sets={"mrservicetd-unknown"},
    )
    qe_vendor: bytes = INTEL_QE_VENDOR
    mr_signer_seam: bytes = _ZERO
    seam_attributes: bytes = bytes(8)
    mr_service_td: bytes = _ZERO

    def __post_init__(self) -> None:
        policyfield.check(self)


@refuses(
    {
        "quote-signature": "the quote's signature, certificate chain or collateral is invalid",
        "pck-chain": "the certificates in the quote are not exactly a PCK, its PCK CA and the root",
        "collateral-role": "the collateral is not signed by exactly the certificates with that role",
        "collateral-encoding": "a signature or revocation list in the collateral is not in lower-case hex",
        "collateral-platform": "the collateral is for another kind of platform",
        **COLLATERAL_CODES,
    }
)
def signature(case: TeeCase[TdxPolicy]) -> Iterator[Refusal]:
    """Check that the QVL verified exactly this quote."""
    yield from checked_signature(case, "quote-signature", "quote")


@refuses(
    {
        "tcb-status": "the platform's TCB status is not accepted",
        "tdx-module-status": "the TDX module's TCB status is not accepted",
        "qe-status": "the quoting enclave's TCB status is not accepted",
        "tcb-date": "a TCB level is older than the policy allows",
        "tee-tcb-svn": "a version number of the TDX module is lower than the policy allows",
        "tcb-evaluation-number": "the collateral is older than the policy allows",
        **COLLATERAL_AGE,
        "advisory": "a rejected security advisory applies to the platform",
        "platform": "the machine is not in the policy's list",
        "platform-instance": "the machine's platform instance ID is not in the policy's list",
    }
)
def platform(case: TeeCase[TdxPolicy]) -> Iterator[Refusal]:
    """Check the status of platform, TDX module and quoting enclave, the collateral's age, and the machine."""
    checked, policy = case.signature, case.policy
    if not isinstance(checked, QuoteFacts):
        return
    for code, level, accepted, when in _levels(checked, policy):
        if level.status not in accepted:
            advisories = f" ({', '.join(level.advisory_ids)})" if level.advisory_ids else ""
            yield Refusal(code, f"{level.status}{advisories}{when}", any_of(accepted))
        if level.date < policy.min_tcb_date:
            yield Refusal("tcb-date", f"{level.date}, {code}{when}", f"{policy.min_tcb_date} or later")
    svn = case.claims.fields["tee-tcb-svn"]
    if any(has < needs for has, needs in zip(svn, policy.min_tee_tcb_svn, strict=True)):
        yield Refusal("tee-tcb-svn", svn.hex(), f"at least {policy.min_tee_tcb_svn.hex()} in each byte")
    if checked.tcb_evaluation_number < policy.min_tcb_evaluation_number:
        wanted = f"{policy.min_tcb_evaluation_number} or later"
        yield Refusal("tcb-evaluation-number", str(checked.tcb_evaluation_number), wanted)
    for part in checked.validity if checked.root_sha256 == INTEL_ROOT_SHA256 else ():
        yield from _age(part, checked.time, policy)
    rejected = [advisory for advisory in checked.advisory_ids if advisory in policy.rejected_advisories]
    if rejected:
        yield Refusal("advisory", ", ".join(rejected), "none of the rejected ones")
    if policy.platforms and checked.ppid not in policy.platforms:
        yield Refusal("platform", checked.ppid.hex(), any_of(ppid.hex() for ppid in policy.platforms))
    instance = checked.platform_instance_id
    if policy.platform_instances and instance not in policy.platform_instances:
        found = "none" if instance is None else instance.hex()
        yield Refusal("platform-instance", found, any_of(each.hex() for each in policy.platform_instances))


def _levels(checked: QuoteFacts, policy: TdxPolicy) -> Iterator[tuple[str, TcbLevel, frozenset[str], str]]:
    """Each level: its code, the accepted statuses, and when it applies (a TD 1.5 report has two states)."""
    pairs = (
        ("tcb-status", policy.tcb_statuses, checked.platform, checked.current_platform),
        ("tdx-module-status", policy.module_statuses, checked.module, checked.current_module),
        ("qe-status", policy.qe_statuses, checked.qe, None),
    )
    for code, accepted, level, current in pairs:
        if level is not None:
            yield code, level, accepted, ""
        if current is not None and current != level:
            yield code, current, accepted, ", as the machine is now"


def _age(part: Validity, now: int, policy: TdxPolicy) -> Iterator[Refusal]:
    """Check one part's age. A simulation's collateral never changes, so only genuine collateral has an age."""
    limit = policy.max_root_crl_age_days if part.name == ROOT_CRL else policy.max_collateral_age_days
    if now - part.issued > limit * _DAY:
        yield Refusal("collateral-age", f"{part.name}, {(now - part.issued) // _DAY} days", f"at most {limit} days")


@refuses(
    {
        "qe-vendor": "the quoting enclave is not the accepted vendor's",
        "td-attributes": "the TD's attributes differ (a debug TD can be read by its host)",
        "xfam": "the TD's extended features are not an accepted set",
        "mrseam": "the TDX module is not in the policy's list",
        "mrsignerseam": "the TDX module is not signed by Intel",
        "seam-attributes": "the TDX module's attributes differ",
        "mrconfigid": "MRCONFIGID differs",
        "mrowner": "MROWNER differs",
        "mrownerconfig": "MROWNERCONFIG differs",
        "mrservicetd": "a service TD is bound to the TD",
        "mrservicetd-unknown": "the quote does not say whether a service TD is bound, and the policy requires it",
    }
)
def td(case: TeeCase[TdxPolicy]) -> Iterator[Refusal]:
    """Check the TD's fields and the TDX module. A field's name is its refusal code."""
    fields, policy = case.claims.fields, case.policy
    exact = {
        "qe-vendor": policy.qe_vendor,
        "td-attributes": policy.td_attributes,
        "mrsignerseam": policy.mr_signer_seam,
        "seam-attributes": policy.seam_attributes,
        "mrconfigid": policy.mr_config_id,
        "mrowner": policy.mr_owner,
        "mrownerconfig": policy.mr_owner_config,
    }
    for name, wanted in exact.items():
        if fields[name] != wanted:
            yield Refusal(name, fields[name].hex(), wanted.hex())
    if fields["xfam"] not in policy.xfams:
        yield Refusal("xfam", fields["xfam"].hex(), any_of(xfam.hex() for xfam in policy.xfams))
    if policy.mr_seams and fields["mrseam"] not in policy.mr_seams:
        yield Refusal("mrseam", fields["mrseam"].hex(), any_of(seam.hex() for seam in policy.mr_seams))
    service_td = fields.get("mrservicetd")
    if service_td is None:
        if policy.require_mrservicetd:
            yield Refusal("mrservicetd-unknown", "a TD 1.0 report", "a TD 1.5 report (quote version 5)")
    elif service_td != policy.mr_service_td:
        yield Refusal("mrservicetd", service_td.hex(), policy.mr_service_td.hex())


def notes(case: TeeCase[TdxPolicy]) -> Iterator[str]:
    """Notes on the platform's TCB, and on what the policy does not check."""
    checked = case.signature
    if isinstance(checked, QuoteFacts):
        module = "part of the platform" if checked.module is None else checked.module.status
        states = f"TCB {checked.platform.status}, TDX module {module}, QE {checked.qe.status}"
        yield f"{states}, evaluation {checked.tcb_evaluation_number}, FMSPC {checked.fmspc.hex()}"
        if checked.advisory_ids:
            yield f"advisories: {', '.join(checked.advisory_ids)}"
        instance = checked.platform_instance_id
        yield f"machine: PPID {checked.ppid.hex()}, PIID {'none' if instance is None else instance.hex()}"
        flags = {
            "dynamicPlatform": checked.dynamic_platform,
            "cachedKeys": checked.cached_keys,
            "smtEnabled": checked.smt_enabled,
        }
        words = {True: "yes", False: "no", None: "not said"}
        yield "PCK certificate: " + ", ".join(f"{name} {words[value]}" for name, value in flags.items())
    if not case.policy.mr_seams:
        yield "MRSEAM: any TDX module that Intel signed, at an accepted TCB level"
    if "mrservicetd" not in case.claims.fields:
        yield (
            "MRSERVICETD: not shown by a version 4 quote; in TDX 1.5, a service TD can neither read nor export "
            "a TD that is not migratable"
        )


RULES = TeeRules[TdxPolicy](
    vendor="Intel",
    genuine_roots=frozenset({INTEL_ROOT_SHA256}),
    registers={
        MRTD: "the firmware differs",
        RTMR0: "the firmware's configuration (machine, ACPI, variables) differs",
        RTMR1: "the image started by the firmware differs",
        RTMR2: "command line, initrd or a section of the UKI differs",
        RTMR3: "the agent's stages differ",
    },
    unlogged={MRTD: "MRTD has no log: the TD was started with another firmware file, or by another method"},
    signature=signature,
    checks=(platform, td),
    notes=notes,
)
