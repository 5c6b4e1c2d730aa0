"""The claims of a TDX quote, and the additional facts from checking its signature.

`evidence.tdx.signature` creates the latter; `verify.tdx` judges both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.events.registers import MRTD, RTMRS
from privml.evidence.claims import Claims, SignatureFacts, Validity
from privml.evidence.tdx import quote

TEE = "tdx"


@dataclass(frozen=True)
class TcbLevel:
    """The level that Intel's collateral gives to one component.

    ``status`` is Intel's word (``UpToDate``, ``OutOfDate``, ...), ``date`` the day of the level (``2024-11-13``),
    ``advisory_ids`` are the advisories that apply to it.
    """

    status: str
    date: str
    advisory_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QuoteFacts(SignatureFacts):
    """A quote with a valid signature and chain.

    ``platform``, ``module`` and ``qe`` are the levels of microcode and BIOS, of the TDX module that started the TD,
    and of the quoting enclave. ``module`` is None for a module of version 0, which is part of the platform's level.
    ``current_platform`` and ``current_module`` are those that the machine has now, which TD 1.5 reports say; None in
    others. ``tcb_status`` is Intel's word on all of them together, and ``advisory_ids`` are all advisories.
    ``tcb_evaluation_number`` is the lower one of TCB info and QE identity. ``fmspc`` (6 bytes), ``pce_id`` (2),
    ``ppid`` (16) and ``platform_instance_id`` (16 bytes or None) identify the machine; the three flags are from its
    certificate, None if it does not say. ``validity`` has the dates of each part of the collateral,
    ``collateral_issued`` (the newest part) and ``collateral_expires`` (the first part to expire) are Unix seconds.
    """

    tcb_status: str
    advisory_ids: tuple[str, ...]
    platform: TcbLevel
    module: TcbLevel | None
    qe: TcbLevel
    current_platform: TcbLevel | None
    current_module: TcbLevel | None
    tcb_evaluation_number: int
    fmspc: bytes
    pce_id: bytes
    ppid: bytes
    platform_instance_id: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None
    validity: tuple[Validity, ...]
    collateral_issued: int
    collateral_expires: int


def read(evidence: bytes, certificates: Sequence[bytes] = ()) -> Claims:
    """The claims of a quote; ``EvidenceError`` if it is malformed or comes with extra certificates.

    ``mrservicetd`` and ``tee-tcb-svn2`` are fields of TD 1.5 reports only.
    """
    if certificates:
        raise EvidenceError("document.certificates: expected none, a TDX quote contains its own")
    parsed = quote.parse(evidence)
    body = parsed.body
    fields = {
        "qe-vendor": parsed.header.qe_vendor,
        "tee-tcb-svn": body.tee_tcb_svn,
        "mrseam": body.mr_seam,
        "mrsignerseam": body.mr_signer_seam,
        "seam-attributes": body.seam_attributes,
        "td-attributes": body.td_attributes,
        "xfam": body.xfam,
        "mrconfigid": body.mr_config_id,
        "mrowner": body.mr_owner,
        "mrownerconfig": body.mr_owner_config,
    }
    later = {"tee-tcb-svn2": body.tee_tcb_svn2, "mrservicetd": body.mr_service_td}
    return Claims(
        tee=TEE,
        registers={MRTD: body.mr_td, **dict(zip(RTMRS, body.rtmrs, strict=True))},
        report_data=body.report_data,
        fields={**fields, **{name: value for name, value in later.items() if value is not None}},
        evidence_sha256=hashlib.sha256(evidence[: parsed.signed_length]).hexdigest(),
    )
