"""The caller's policy for any image. Defaults are strict. A check can be loosened by naming a value, never
disabled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from privml.events.stages import SERVE, STAGE_OF
from privml.verify.tdx import TdxPolicy


@dataclass(frozen=True)
class Policy:
    """The acceptance criteria that do not depend on the image.

    ``purpose`` is the required purpose of the document. ``allow_simulated`` is the DER of a simulation's root, or
    None; a development image is accepted only with one. ``exceptions`` are the accepted exceptions of an image's
    recipe, each as ``KIND:SUBJECT``. Each TEE's policy is in the field with its name.
    """

    purpose: str = SERVE
    allow_simulated: bytes | None = None
    exceptions: frozenset[str] = frozenset()
    tdx: TdxPolicy = field(default_factory=TdxPolicy)

    def __post_init__(self) -> None:
        if self.purpose not in STAGE_OF:
            raise ValueError(f"purpose `{self.purpose}`, expected one of {', '.join(STAGE_OF)}")

    @property
    def stage(self) -> str:
        """The stage of the boot at which a document for this purpose is made."""
        return STAGE_OF[self.purpose]

    @property
    def simulated_root_sha256(self) -> str | None:
        """Hex SHA-256 of the accepted simulated root, or None."""
        return None if self.allow_simulated is None else hashlib.sha256(self.allow_simulated).hexdigest()
