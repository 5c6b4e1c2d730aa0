"""The GPUs that an image needs, as its predicate declares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privml.base.strictjson import Fields
from privml.events.gpus import MAX_GPUS, MAX_SWITCHES


@dataclass(frozen=True)
class Gpus:
    """Number and architecture of the GPUs, and the number of NVSwitches whose traffic is not encrypted."""

    architecture: str
    count: int
    switches: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"architecture": self.architecture, "count": self.count, "switches": self.switches}

    @classmethod
    def from_fields(cls, fields: Fields) -> Gpus:
        """Read the object; ``EvidenceError`` if it is anything else."""
        found = cls(
            architecture=fields.text("architecture", limit=32),
            count=fields.integer("count", low=1, high=MAX_GPUS),
            switches=fields.integer("switches", high=MAX_SWITCHES),
        )
        fields.end()
        return found
