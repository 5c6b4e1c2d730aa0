"""Evidence of 8 GPUs and 4 switches, with all revocation answers and reference values, over its raw signatures."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import report, signature
from privml.evidence.nvidia.claims import CheckedDevices
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.sim import gpu, gpupki

Figure = Callable[[str, list[float], float, str], None]

NOW = 1_795_000_000
REPORTS, CERTIFICATES, ANSWERS, VALUES = 12, 2 * 12 + 4 + 2 * 3 + 1, 15 + 6, 3
"""Signatures to check: certificates that devices or signers share count once."""


def run(figure: Figure) -> None:
    """Two figures, in processor time: milliseconds beyond the raw signature checks, and one GPU alone."""
    key = gpupki.private_key("bench")
    data = bytes(4000)
    signed = key.sign(data, ec.ECDSA(hashes.SHA384()))
    public = key.public_key()

    def raw(count: int) -> Callable[[], object]:
        return lambda: [public.verify(signed, data, ec.ECDSA(hashes.SHA384())) for _ in range(count)]

    full = NvidiaCollateral(
        (*gpu.answers([*gpu.GPUS, *gpu.SWITCHES], NOW), *gpupki.rim_answers(["GH100", "LS10"], NOW)),
        gpu.rims(switches=True),
    )
    board, alone = gpu.evidence(bytes(32), 8, 4), gpu.evidence(bytes(32))
    total = REPORTS + CERTIFICATES + ANSWERS + VALUES
    pairs = [(_seconds(_checked(board, full)), _seconds(raw(total))) for _ in range(9)]
    figure("gpus-8-switches-4-beyond-signatures", [1000 * (whole - bare) for whole, bare in pairs], 60, "ms")
    single = [_seconds(_checked(alone, NvidiaCollateral())) for _ in range(9)]
    figure("gpu-1", [1000 * value for value in single], 8, "ms")


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _checked(evidence: tuple[DeviceEvidence, ...], given: NvidiaCollateral) -> Callable[[], CheckedDevices]:
    anchors = signature.Anchors(gpupki.roots())

    def work() -> CheckedDevices:
        devices = [(device, report.read(device.kind, device.report)) for device in evidence]
        found = signature.check(devices, given, now=NOW, anchors=anchors)
        assert len(found.devices) == len(evidence)
        return found

    return work
