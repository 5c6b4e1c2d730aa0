"""A TDX quote as claims."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from privml.base.errors import EvidenceError
from privml.events.registers import MRTD, RTMRS
from privml.evidence.claims import Claims
from privml.evidence.tdx import quote

TEE = "tdx"


def read(evidence: bytes, certificates: Sequence[bytes] = ()) -> Claims:
    """The claims of a quote; ``EvidenceError`` when it is malformed, or when certificates come with it.

    ``mrservicetd`` and ``tee-tcb-svn2`` are fields of TD 1.5 reports only.
    """
    if certificates:
        raise EvidenceError("document.certificates: a TDX quote holds its own, expected none")
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
