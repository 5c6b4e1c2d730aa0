"""Simulated platforms that differ from the honest one: their PKI, collateral, TD report and quote version.

Each really signs what it claims, so only the checks stand between it and a verdict.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Any

import attestation_samples as samples

from privml.base.strictjson import loads
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import Document
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.evidence.tdx.quote import (
    BODY_15_SIZE,
    BODY_TD15,
    CERT_QE_REPORT,
    ECDSA_P256,
    INTEL_QE_VENDOR,
    TEE_TDX,
)
from privml.sim import pki, quote
from privml.verify.policy import Policy
from privml.verify.verdict import Verdict

HONEST = samples.document()
MODULE_VERSION = 1
MODULE_SVN = 5
DATE = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Platform:
    """A platform. ``flips`` are bytes of the TD 1.0 report to replace, by offset. With ``current`` (TEE_TCB_SVN2)
    its quotes are version 5, with a TD 1.5 report that has ``service_td``."""

    how: pki.Variation = pki.HONEST
    flips: tuple[tuple[int, bytes], ...] = ()
    current: bytes | None = None
    service_td: bytes = bytes(48)

    def document(self) -> Document:
        """A document from this platform."""
        body = bytearray(HONEST.evidence[48:632])
        for at, value in self.flips:
            body[at : at + len(value)] = value
        report, certification = bytes(body), pki.generate(self.how)["certification.bin"]
        if self.current is None:
            made = quote.assemble(report, certification)
        else:
            made = assemble_v5(report + self.current + self.service_td, certification)
        return dataclasses.replace(HONEST, evidence=made)

    def collateral(self) -> dict[str, str]:
        """Its collateral."""
        return collaterals.decode(loads(pki.generate(self.how)["collateral.json"]))

    def check(self, now: int = samples.NOW) -> QuoteFacts | SignatureFailure:
        """The signature check of its quote."""
        return signature.check(self.document().evidence, self.collateral(), now=now, simulated_root=samples.ROOT)

    def verdict(self, policy: Policy = samples.SIMULATED, now: int = samples.NOW) -> Verdict:
        """The verdict on its document."""
        return samples.judge(self.document(), signature=self.check(now), policy=policy).verdict


def assemble_v5(report: bytes, certification: bytes) -> bytes:
    """A version 5 quote over a TD 1.5 report."""
    assert len(report) == BODY_15_SIZE
    header = struct.pack("<HHIHH16s20s", 5, ECDSA_P256, TEE_TDX, 0, 0, INTEL_QE_VENDOR, bytes(20))
    signed = header + struct.pack("<HI", BODY_TD15, BODY_15_SIZE) + report
    key = quote.private_key("attestation key")
    data = quote.sign(key, signed) + quote.public_point(key)
    data += struct.pack("<HI", CERT_QE_REPORT, len(certification)) + certification
    return signed + struct.pack("<I", len(data)) + data


def codes(verdict: Verdict) -> list[str]:
    return [refusal.code for refusal in verdict.refusals]


def level(status: str, *advisories: str, date: str = DATE, **tcb: Any) -> dict[str, Any]:
    """A TCB level of the honest platform, with another status."""
    (honest,) = pki.tcb_info_json()["tcbLevels"]  # type: ignore[misc]
    changes = {"tcbStatus": status, "tcbDate": date, "advisoryIDs": list(advisories)}
    return {**honest, "tcb": {**honest["tcb"], **tcb}, **changes}


def module(*levels: tuple[int, str], version: int = MODULE_VERSION) -> dict[str, Any]:
    """The identity of a TDX module with these (ISVSVN, status) levels."""
    return {
        "id": f"TDX_{version:02X}",
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
        "tcbLevels": [
            {
                "tcb": {"isvsvn": svn},
                "tcbDate": DATE,
                "tcbStatus": status,
                "advisoryIDs": [] if status == "UpToDate" else ["INTEL-SA-00009"],
            }
            for svn, status in levels
        ],
    }


def qe_levels(*levels: tuple[int, str]) -> dict[str, Any]:
    """A QE identity's levels."""
    return {"tcbLevels": [{"tcb": {"isvsvn": svn}, "tcbDate": DATE, "tcbStatus": status} for svn, status in levels]}


def with_module(*levels: tuple[int, str], **changes: Any) -> Platform:
    """A platform with a TDX module of version `MODULE_VERSION`, and its identity's levels."""
    how = pki.Variation(tcb_info={"tdxModuleIdentities": [module(*levels)]})
    return Platform(how, flips=((0, bytes([MODULE_SVN, MODULE_VERSION])),), **changes)
