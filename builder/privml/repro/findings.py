"""What a comparison of two outputs found so far: the differences, and how much was compared in each layer.

Every difference gets its cause, the package that ships the path, and the line of the recipe it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from privml.base.errors import printable
from privml.repro.causes import Symptom, name_cause
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.origins import origin_key
from privml.repro.owners import Owners

# Symptoms in the layer of trees whose path is no path in a tree.
_NOT_PATHS = ("package", "configuration")


@dataclass
class Findings:
    """A record that grows while layers are compared.

    ``owners`` names the package of a path, ``origins`` the line of the recipe that each part comes from, as a
    manifest has it. ``compared`` are the numbers of compared items, ``notes`` what was not looked at and why.
    """

    owners: Owners = field(default_factory=Owners)
    origins: Mapping[str, str] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    compared: dict[Layer, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, layer: Layer, place: str, what: str, a: str, b: str, *, symptom: Symptom, detail: str = "") -> None:
        """Record a difference with its cause, package and recipe line."""
        path = symptom.path if layer is Layer.TREE and symptom.field not in _NOT_PATHS else ""
        owner = self.owners.package(path) if path else "unknown"
        origin = self.origins.get(origin_key(place, owner), "")
        cause = name_cause(symptom)
        self.mismatches.append(
            Mismatch(layer, printable(place), what, printable(a), printable(b), cause, owner, origin, detail)
        )

    def plain(self, layer: Layer, place: str, what: str, a: str, b: str, kind: str, key: str = "") -> None:
        """Record a difference outside a tree."""
        self.add(layer, place, what, a, b, symptom=Symptom(kind, key or what))

    def count(self, layer: Layer, number: int = 1) -> None:
        """Count ``number`` compared items of a layer."""
        self.compared[layer] = self.compared.get(layer, 0) + number

    def nothing(self) -> None:
        """Record layers in which nothing was compared, since their equality proves nothing."""
        for layer in Layer if not self.mismatches else ():
            if not self.compared.get(layer):
                self.plain(layer, layer.title, "number", "0", "0", "nothing")

    def report(self, digests: dict[str, tuple[str, str]]) -> Report:
        """The report on outputs whose files have ``digests``, of both sides by name.

        It has the differences by layer, and those of a layer in the order in which they were found.
        """
        grouped = sorted(self.mismatches, key=lambda mismatch: mismatch.layer)
        return Report(tuple(grouped), self.compared, digests, tuple(self.notes))
