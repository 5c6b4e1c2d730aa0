"""The layers of a comparison, measured ones first, and their findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from privml.repro.causes import FOLLOWS, Cause


class Layer(IntEnum):
    """Layers in report order: what is measured comes before what it consists of."""

    REGISTERS = 1
    UKI = 2
    ROOT_HASH = 3
    TREE = 4
    PARTITIONS = 5
    BYTES = 6

    @property
    def title(self) -> str:
        """The layer's name in reports."""
        return _TITLES[self]


_TITLES = {
    Layer.REGISTERS: "registers",
    Layer.UKI: "UKI sections",
    Layer.ROOT_HASH: "root hashes",
    Layer.TREE: "trees",
    Layer.PARTITIONS: "partition tables and file systems",
    Layer.BYTES: "files, byte by byte",
}


@dataclass(frozen=True)
class Mismatch:
    """One difference between two images: where (``root.raw:/etc/passwd``), in which field, and both values.

    ``cause`` says why and how to fix it, ``package`` and ``origin`` say where it comes from. In a comparison of two
    recipes, ``because`` names the changes of recipe and inputs that it follows from. ``detail`` is the output of an
    external program, if one was run.
    """

    layer: Layer
    place: str
    field: str
    a: str
    b: str
    cause: Cause
    package: str = "unknown"
    origin: str = ""
    detail: str = ""
    because: tuple[str, ...] = ()

    def text(self) -> str:
        """Two lines of text."""
        whose = f", package {self.package}" if self.package != "unknown" else ""
        line = f", {self.origin}" if self.origin else ""
        return (
            f"{self.place}: {self.field}: {self.a} | {self.b}\n"
            f"    [{self.cause.id}] {self.cause.cause}{whose}{line}; fix: {self.cause.fix}"
        )

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "layer": self.layer.title,
            "place": self.place,
            "field": self.field,
            "a": self.a,
            "b": self.b,
            "cause_id": self.cause.id,
            "cause": self.cause.cause,
            "fix": self.cause.fix,
            "package": self.package,
            "origin": self.origin,
            "because": list(self.because),
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Report:
    """All differences in the order of layers, and the number of compared items per layer."""

    findings: tuple[Mismatch, ...]
    compared: dict[Layer, int]
    digests: dict[str, tuple[str, str]]
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """True if nothing differs and something was compared in every required layer."""
        return not self.findings and self.compared.get(Layer.BYTES, 0) > 0

    @property
    def first(self) -> Layer | None:
        """The first layer with a difference."""
        return min((finding.layer for finding in self.findings), default=None)

    @property
    def reason(self) -> Mismatch | None:
        """The first difference that is not a consequence of another; the very first if all are."""
        own = (finding for finding in self.findings if finding.cause.id not in FOLLOWS and not finding.because)
        return next(own, self.findings[0] if self.findings else None)

    @property
    def exit_code(self) -> int:
        """0 or 1; not a count, which would wrap at 256."""
        return 0 if self.equal else 1

    def causes(self) -> list[tuple[str, int]]:
        """(cause, count), the most frequent first."""
        counted = Counter(finding.cause.id for finding in self.findings)
        return sorted(counted.items(), key=lambda item: (-item[1], item[0]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object with all findings."""
        return {
            "equal": self.equal,
            "first_differing_layer": self.first.title if self.first else None,
            "look_first": self.reason.to_dict() if self.reason else None,
            "differences": len(self.findings),
            "compared": {layer.title: self.compared.get(layer, 0) for layer in Layer},
            "digests": {name: list(pair) for name, pair in sorted(self.digests.items())},
            "causes": dict(self.causes()),
            "notes": list(self.notes),
            "findings": [finding.to_dict() for finding in self.findings],
        }
