"""The claims of an SNP report, and the additional facts from checking its signature.

`evidence.snp.signature` creates the latter; `verify.snp` judges both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.events.registers import LAUNCH
from privml.evidence.claims import Claims, SignatureFacts, Validity
from privml.evidence.snp import report

TEE = "snp"
MAX_CHAIN = 3
REPORTED, CURRENT, COMMITTED, LAUNCHED = "reported", "current", "committed", "launch"
TCBS = (REPORTED, CURRENT, COMMITTED, LAUNCHED)
"""The TCB versions of a report: that of the signing key, of the machine now, that cannot be undone, at the launch."""


@dataclass(frozen=True, kw_only=True)
class ReportFacts(SignatureFacts):
    """A report with a valid signature and chain, whose certificate is of the chip and TCB version that it names.

    ``product`` and ``stepping`` are the processor's, from the certificate; ``role`` is `VCEK` or `VLEK`, ``csp`` the
    provider that a VLEK names. ``tcbs`` has the parts of each of `TCBS` by name. ``validity`` has the dates of the
    certificates, and of the revocation list if there was one; ``revocation`` is the latter's, or None.
    """

    product: str
    stepping: str
    role: str
    csp: str | None
    tcbs: Mapping[str, Mapping[str, int]]
    validity: tuple[Validity, ...]
    revocation: Validity | None


def read(evidence: bytes, certificates: Sequence[bytes] = ()) -> Claims:
    """The claims of a report; ``EvidenceError`` if it is malformed or comes with more than a chain of certificates.

    Numbers are little-endian, as in the report. ``processor`` is empty before version 3, and the two fields of
    mitigations before version 5.
    """
    if len(certificates) > MAX_CHAIN:
        raise EvidenceError(f"document.certificates: {len(certificates)}, expected at most {MAX_CHAIN}")
    found = report.parse(evidence)
    product = b"" if found.product is None else evidence[0x188:0x18B]
    mitigations = (found.launch_mitigations, found.current_mitigations)
    launched, current = (b"" if value is None else value.to_bytes(8, "little") for value in mitigations)
    return Claims(
        tee=TEE,
        registers={LAUNCH: found.measurement},
        report_data=found.report_data,
        fields={
            "report-version": found.version.to_bytes(4, "little"),
            "guest-svn": found.guest_svn.to_bytes(4, "little"),
            "snp-policy": found.policy.to_bytes(8, "little"),
            "family-id": found.family_id,
            "image-id": found.image_id,
            "vmpl": found.vmpl.to_bytes(4, "little"),
            "platform-info": found.platform_info.to_bytes(8, "little"),
            "signing-key": evidence[0x48:0x4C],
            "host-data": found.host_data,
            "id-key": found.id_key_digest,
            "author-key": found.author_key_digest,
            "report-id": found.report_id,
            "migration-agent": found.report_id_ma,
            "processor": product,
            "chip": found.chip_id,
            "reported-tcb": found.reported_tcb,
            "current-tcb": found.current_tcb,
            "committed-tcb": found.committed_tcb,
            "launch-tcb": found.launch_tcb,
            "current-firmware": _version(found.current),
            "committed-firmware": _version(found.committed),
            "launch-mitigations": launched,
            "current-mitigations": current,
        },
        evidence_sha256=hashlib.sha256(evidence).hexdigest(),
    )


def _version(version: report.Version) -> bytes:
    """Major, minor and build, so that later versions are greater."""
    return bytes((version.major, version.minor, version.build))
