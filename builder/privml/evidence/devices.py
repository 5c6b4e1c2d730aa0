"""Evidence of confidential devices: how their signatures are checked."""

from __future__ import annotations

from privml.evidence.facts import Facts
from privml.evidence.nvidia.claims import CheckedDevices
from privml.evidence.nvidia.collateral import NvidiaCollateral


def check(
    found: Facts,
    collateral: NvidiaCollateral,
    *,
    now: int,
    simulated_roots: tuple[bytes, bytes] | None,
) -> CheckedDevices:
    """Check the evidence of the document's devices at ``now``.

    ``simulated_roots`` (DER, of devices and of reference values) are accepted in addition to NVIDIA's.
    """
    if not (found.device_evidence or collateral.ocsp or collateral.rims):
        return CheckedDevices()
    # Imported late, like the QVL.
    from privml.evidence.nvidia import signature

    devices = list(zip(found.device_evidence, found.device_claims, strict=True))
    return signature.check(devices, collateral, now=now, anchors=signature.Anchors(simulated_roots))
