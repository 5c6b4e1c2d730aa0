"""Find the machine that a launch digest is of: the same firmware and kernel with other processors.

The chain grows by one save area for each processor, so all numbers of processors of one kind cost one chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.sizes import MAX_VCPUS
from privml.measure.snp.launch import Launcher
from privml.measure.snp.vmsa import SNP_ACTIVE

DEBUG_SWAP = 1 << 5
"""SEV_FEATURES bit that KVM set in kernels before it was made optional (AMDESE/AMDSEV#195)."""
FEATURES = (SNP_ACTIVE, SNP_ACTIVE | DEBUG_SWAP)


@dataclass(frozen=True)
class Processors:
    """The processors of a guest: how many, QEMU's model, and their SEV_FEATURES."""

    vcpus: int
    model: str
    features: int

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU{'' if self.vcpus == 1 else 's'} of {self.model}, SEV_FEATURES 0x{self.features:x}"


def processors_of(launcher: Launcher, digest: bytes, signatures: Mapping[str, int]) -> Processors | None:
    """The processors with which ``launcher`` gives ``digest``; None if none of those tried do.

    ``signatures`` are the CPUID signatures to try, by model; each with 1 to `MAX_VCPUS` processors.
    """
    for model, signature in signatures.items():
        for features in FEATURES:
            digests = launcher.growing(MAX_VCPUS, signature=signature, features=features)
            for vcpus, found in enumerate(digests, 1):
                if found == digest:
                    return Processors(vcpus, model, features)
    return None
