"""The changes of recipe and inputs between two images, by what decides a part of an image.

Answers are the titles of changes, in the order of a report. Fields of a recipe that the outputs do not tell begin
with `MAYBE`: they are possible causes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privml.events.registers import RTMR3
from privml.events.volumes import DATA, MODEL, Slot, slot_of
from privml.output.artefacts import ROOT
from privml.recipe.effective import NONE
from privml.recipe.fields import plain_name
from privml.repro.change import BY_UKI, FIELD, MAYBE, NAME, Change
from privml.repro.recipechanges import Side

_FIELDS_OF = {MODEL: "inference.models", DATA: "data"}
"""The list in a recipe with the volumes of each kind."""


class Sources:
    """The ``changes`` between two images; ``untold`` are the fields of their recipes that the outputs do not tell."""

    def __init__(self, changes: Sequence[Change], sides: tuple[Side, Side], untold: Sequence[str]) -> None:
        self.changes = changes
        self.untold = untold
        self._sides = sides
        self._of_kind: dict[str, list[Change]] = {}
        for change in changes:
            self._of_kind.setdefault(change.kind, []).append(change)

    def fields(self, *names: str) -> list[str]:
        """The changed fields called ``names`` or inside them, and those that cannot be told."""
        found = [change.title for change in self.of_kind(FIELD) if _inside(change.name, names)]
        plain = [plain_name(name) for name in names]
        return found + [f"{MAYBE}{path}" for path in self.untold if _inside(path, plain)]

    def changed(self, *names: str) -> list[str]:
        """The changed fields called ``names`` or inside them."""
        return [name for name in self.fields(*names) if not name.startswith(MAYBE)]

    def measured(self, titles: Iterable[str]) -> list[str]:
        """Without fields that move no register, such as a model's licence."""
        unmeasured = {change.title for change in self.of_kind(FIELD) if not change.moves}
        return [title for title in titles if title not in unmeasured]

    def of_kind(self, kind: str) -> Sequence[Change]:
        """The changes of one kind."""
        return self._of_kind.get(kind, ())

    def kinds(self, *kinds: str) -> list[str]:
        """The changes of these kinds."""
        return [change.title for kind in kinds for change in self.of_kind(kind)]

    def kernel(self) -> list[str]:
        """What decides which kernel the image has."""
        return [*self.fields("kernel.package", "kernel.suite", "base"), *self.kinds("kernel package")]

    def moving(self, register: str) -> list[str]:
        """The changes that move a register for certain."""
        found = [change.title for change in self.changes if change.certain and register in change.moves]
        if register == RTMR3 and self.on_one_side("python.before"):
            found += self.fields("python")  # the environment of each service has their folder
        return found or ([f"{MAYBE}a field that cannot be told"] if self.untold else [])

    def root(self) -> list[str]:
        """What decides the bytes of the root: all that moves the UKI's registers, but for the kernel's options."""
        outside = set(self.fields("kernel.options")) | set(self.kinds("kernel option"))
        return [title for title in self.moving(BY_UKI[0]) if title not in outside]

    def filled(self, slot: Slot) -> list[str]:
        """What decides the bytes of the volume of a model or data."""
        entries = [{each.volume: each for each in side.manifest.filled}.get(slot.file) for side in self._sides]
        names = {each.name for each in entries if each is not None}
        field = _FIELDS_OF[slot.kind]
        kinds = (slot.kind.name, "volume key")
        return [
            *self.measured(self.fields(f"{field}[{slot.number}]" if all(entries) else field.partition(".")[0])),
            *(change.title for kind in kinds for change in self.of_kind(kind) if change.name in names),
            *self.kinds("times"),
        ]

    def seed(self, volume: str) -> list[str]:
        """What decides the UUIDs and the salt of a volume: the name of the recipe, or of the model or data."""
        if volume == ROOT:
            return self.kinds(NAME)
        slot = _slot(volume)
        return self.fields(f"{_FIELDS_OF[slot.kind]}[{slot.number}].name") or self._absent(slot)

    def _absent(self, slot: Slot) -> list[str]:
        both = all(slot.file in side.manifest.volumes for side in self._sides)
        return [] if both else self.filled(slot)

    def volume(self, volume: str) -> list[str]:
        """What decides the bytes of a volume, by the name of its file."""
        return self.root() if volume == ROOT else self.filled(_slot(volume))

    def on_one_side(self, field: str) -> bool:
        """Whether ``field``, which has a value wherever its section is, has one on one side only."""
        named = [change for change in self.of_kind(FIELD) if change.name == field]
        return any(NONE in (change.before, change.after) for change in named)


def _inside(name: str, fields: Iterable[str]) -> bool:
    return any(name == field or name.startswith((f"{field}.", f"{field}[")) for field in fields)


def _slot(volume: str) -> Slot:
    slot = slot_of(volume)
    assert slot is not None, "the volume is one of a model or data"
    return slot
