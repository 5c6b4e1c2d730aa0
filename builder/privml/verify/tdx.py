"""Intel TDX: the policy for quotes, and its checks.

Source: Intel TDX module 1.5 ABI, TDREPORT_STRUCT, ATTRIBUTES and XFAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR2, RTMR3
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx.claims import QuoteFacts
from privml.evidence.tdx.quote import INTEL_QE_VENDOR
from privml.verify.rules import TeeCase, TeeRules, any_of, refuses
from privml.verify.verdict import Refusal

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of the DER of the Intel SGX Root CA."""

_ZERO = bytes(48)


@dataclass(frozen=True)
class TdxPolicy:
    """Acceptance criteria for a TD and its platform. Defaults are strict.

    ``tcb_statuses`` are the accepted TCB statuses, ``min_tcb_evaluation_number`` stops old collateral from hiding a
    known vulnerability, ``rejected_advisories`` are refused even with an accepted status. ``xfams`` allows the usual
    extended features with and without CET. ``mr_seams`` lists accepted TDX modules; empty means any module that
    Intel signed and whose TCB level is accepted, and the verdict notes it. ``platforms`` lists accepted PPIDs; empty
    means any machine.
    """

    tcb_statuses: frozenset[str] = frozenset({"UpToDate"})
    min_tcb_evaluation_number: int = 18
    rejected_advisories: frozenset[str] = frozenset()
    qe_vendor: bytes = INTEL_QE_VENDOR
    td_attributes: bytes = bytes.fromhex("0000001000000000")
    xfams: frozenset[bytes] = frozenset({bytes.fromhex("e702060000000000"), bytes.fromhex("e71a060000000000")})
    mr_seams: frozenset[bytes] = frozenset()
    mr_signer_seam: bytes = _ZERO
    seam_attributes: bytes = bytes(8)
    mr_config_id: bytes = _ZERO
    mr_owner: bytes = _ZERO
    mr_owner_config: bytes = _ZERO
    mr_service_td: bytes = _ZERO
    platforms: frozenset[bytes] = frozenset()


@refuses(
    {
        "quote-signature": "the quote's signature, certificate chain or collateral is invalid",
        "pck-chain": "the certificates in the quote are not exactly a PCK, its PCK CA and the root",
        "collateral-role": "the collateral is not signed by exactly the certificates with that role",
        "collateral-encoding": "a signature or revocation list in the collateral is not in lower-case hex",
        "collateral-missing": "there is no collateral to check the signature with",
    }
)
def signature(case: TeeCase[TdxPolicy]) -> Iterator[Refusal]:
    """Check that the QVL verified exactly this quote."""
    checked = case.signature
    if isinstance(checked, SignatureFailure):
        yield Refusal(checked.code, checked.reason, checked.expected)
    elif checked.evidence_sha256 != case.claims.evidence_sha256:
        found, wanted = checked.evidence_sha256, case.claims.evidence_sha256
        yield Refusal("quote-signature", f"a check of quote {found}", f"of quote {wanted}")


@refuses(
    {
        "tcb-status": "the platform's TCB status is not accepted",
        "tcb-evaluation-number": "the collateral is older than the policy allows",
        "advisory": "a rejected security advisory applies to the platform",
        "platform": "the machine is not in the policy's list",
    }
)
def platform(case: TeeCase[TdxPolicy]) -> Iterator[Refusal]:
    """Check TCB status, age of the collateral, and platform identity."""
    checked, policy = case.signature, case.policy
    if not isinstance(checked, QuoteFacts):
        return
    if checked.tcb_status not in policy.tcb_statuses:
        found = checked.tcb_status
        if checked.advisory_ids:
            found += f" ({', '.join(checked.advisory_ids)})"
        yield Refusal("tcb-status", found, any_of(policy.tcb_statuses))
    if checked.tcb_evaluation_number < policy.min_tcb_evaluation_number:
        wanted = f"{policy.min_tcb_evaluation_number} or later"
        yield Refusal("tcb-evaluation-number", str(checked.tcb_evaluation_number), wanted)
    rejected = [advisory for advisory in checked.advisory_ids if advisory in policy.rejected_advisories]
    if rejected:
        yield Refusal("advisory", ", ".join(rejected), "none of the rejected ones")
    if policy.platforms and checked.ppid not in policy.platforms:
        yield Refusal("platform", checked.ppid.hex(), any_of(ppid.hex() for ppid in policy.platforms))


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
    # A TD 1.0 report lacks this field, because its module does not support service TDs.
    service_td = fields.get("mrservicetd", policy.mr_service_td)
    if service_td != policy.mr_service_td:
        yield Refusal("mrservicetd", service_td.hex(), policy.mr_service_td.hex())


def notes(case: TeeCase[TdxPolicy]) -> Iterator[str]:
    """Notes on the platform's TCB, and on what the policy does not check."""
    checked = case.signature
    if isinstance(checked, QuoteFacts):
        level = f"TCB {checked.tcb_status}, evaluation {checked.tcb_evaluation_number}"
        yield f"{level}, FMSPC {checked.fmspc.hex()}"
        if checked.advisory_ids:
            yield f"advisories: {', '.join(checked.advisory_ids)}"
    if not case.policy.mr_seams:
        yield "MRSEAM: any TDX module that Intel signed, at an accepted TCB level"


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
