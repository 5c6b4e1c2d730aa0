"""What a caller accepts. The defaults are strict, and every field can only be named, not left out.

Values: attestation specification, section 3.2 steps 8-11.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from privml.evidence.tdx.quote import INTEL_QE_VENDOR
from privml.statement.predicate import Predicate

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of the DER of the Intel SGX Root CA."""

_ZERO = bytes(48)


@dataclass(frozen=True)
class Policy:
    """The part of the tuple that does not depend on the image.

    ``tcb_statuses`` are the accepted words of Intel, ``min_tcb_evaluation_number`` stops old collateral from
    hiding a known hole, ``rejected_advisories`` are refused even on an accepted status. ``xfams`` allows the usual
    extended features with and without CET. ``mr_seams`` lists accepted TDX modules; empty means any module that
    Intel signed and whose TCB level is accepted, and the verdict notes it. ``platforms`` lists accepted PPIDs; empty
    means any machine. ``allow_simulated`` is the DER of a simulation's root, or None.
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
    purpose: str = "serve"
    stage: str = "ready"
    allow_simulated: bytes | None = None

    @property
    def simulated_root_sha256(self) -> str | None:
        """Hex SHA-256 of the accepted simulated root, or None."""
        return None if self.allow_simulated is None else hashlib.sha256(self.allow_simulated).hexdigest()


@dataclass(frozen=True)
class Expected:
    """What the image must measure to, and on whose word: ``anchor`` is told in the verdict's first line
    (``the build in out/demo-cpu``, ``demo-cpu 1.2 signed by 2 of 3``).
    """

    predicate: Predicate
    anchor: str
