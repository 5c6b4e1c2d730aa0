"""A device's report as a whole: SPDM fields, opaque data, digest. Nothing is checked but its form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from privml.evidence.nvidia import opaque, spdm
from privml.evidence.nvidia.opaque import GpuOpaque, SwitchOpaque
from privml.evidence.nvidia.spdm import Report


@dataclass(frozen=True)
class DeviceClaims:
    """The claims of a report. They hold only if its signature is valid, which is recorded separately.

    ``evidence_sha256`` (hex) is over all its bytes.
    """

    kind: str
    report: Report
    said: GpuOpaque | SwitchOpaque
    evidence_sha256: str

    @property
    def firmware(self) -> str:
        """``DRIVER/VBIOS`` of a GPU, the VBIOS version of a switch."""
        return f"{self.said.driver}/{self.said.vbios}" if isinstance(self.said, GpuOpaque) else self.said.vbios


def read(kind: str, data: bytes) -> DeviceClaims:
    """The claims of a report of a GPU or switch; ``EvidenceError`` if it is malformed."""
    report = spdm.parse(data)
    return DeviceClaims(kind, report, opaque.parse(kind, report.opaque), hashlib.sha256(data).hexdigest())
