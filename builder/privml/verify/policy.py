"""The caller's policy for any image. Defaults are strict. A check can be loosened by naming a value, never
disabled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from privml.events.stages import SERVE, STAGE_OF
from privml.verify import policyfield
from privml.verify.nvidia import NvidiaPolicy
from privml.verify.policyfield import section, setting, switch, texts
from privml.verify.publication import PublicationPolicy
from privml.verify.snp import SnpPolicy
from privml.verify.tdx import TdxPolicy


@dataclass(frozen=True)
class Policy:
    """The acceptance criteria that do not depend on the image.

    ``purpose`` is the required purpose of the document. ``allow_simulated`` is the DER of a simulation's root, or
    None; a development image is accepted only with one. ``allow_demonstration`` accepts, as a simulation, an image
    published under a root that is marked as a demonstration. No policy file can set these three. Each TEE's policy is
    in the field with its name.
    """

    purpose: str = SERVE
    allow_simulated: bytes | None = None
    allow_demonstration: bool = False
    exceptions: frozenset[str] = setting(
        texts(),
        frozenset(),
        "Accepted exceptions of an image's recipe, each as KIND:SUBJECT.",
        relaxes={"exceptions"},
    )
    allow_unused_runtime: bool = setting(
        switch(),
        False,
        "Accept an image whose kernel cannot extend the register of the agent's events (RTMR3 of a TD). "
        "Then only the report data covers the agent's log.",
        relaxes={"runtime-unused"},
    )
    tdx: TdxPolicy = section(TdxPolicy(), "Intel TDX: the platform, its TDX module, and the TD.")
    snp: SnpPolicy = section(SnpPolicy(), "AMD SEV-SNP: the processor, its firmware, and the guest.")
    nvidia: NvidiaPolicy = section(NvidiaPolicy(), "NVIDIA GPUs and NVSwitches.")
    published: PublicationPolicy = section(PublicationPolicy(), "Published versions (`--trust`).")

    def __post_init__(self) -> None:
        if self.purpose not in STAGE_OF:
            raise ValueError(f"purpose `{self.purpose}`, expected one of {', '.join(STAGE_OF)}")
        policyfield.check(self)

    @property
    def stage(self) -> str:
        """The stage of the boot at which a document for this purpose is made."""
        return STAGE_OF[self.purpose]

    @property
    def simulated_root_sha256(self) -> str | None:
        """Hex SHA-256 of the accepted simulated root, or None."""
        return None if self.allow_simulated is None else hashlib.sha256(self.allow_simulated).hexdigest()

    @cached_property
    def strict(self) -> Policy:
        """This policy without its relaxations; values that only tighten it stay."""
        return policyfield.strict(self)
