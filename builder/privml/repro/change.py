"""One change between two images or locks, in terms of the recipe, and the registers that each kind moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from privml.events.registers import REGISTERS
from privml.recipe import section
from privml.repro.causes import FOLLOWS, Cause


class Group(IntEnum):
    """Groups of changes in the order of reports: what was asked for comes before what it led to."""

    RECIPE = 1
    CONFIGURATION = 2
    INPUTS = 3
    RESULTS = 4

    @property
    def title(self) -> str:
        """The group's name in reports."""
        return _TITLES[self]


_TITLES = {
    Group.RECIPE: "recipe fields, effective",
    Group.CONFIGURATION: "measured configuration, key by key",
    Group.INPUTS: "packages, models, files and options",
    Group.RESULTS: "artefacts",
}


def lower(registers: Iterable[str]) -> tuple[str, ...]:
    """The names of registers as predictions have them."""
    return tuple(register.lower() for register in registers)


BY_UKI, BY_CONFIG, ALL = lower(section.ROOT), lower(section.CONFIG), lower(section.ALL)
BY_FIRMWARE = lower(section.FIRMWARE)
FIELD, NAME, TEXT = "recipe field", "name", "text"
KEY = "configuration"
SUPERBLOCK = "superblock"
_KINDS: dict[str, tuple[Group, tuple[str, ...]]] = {
    # A field's own registers are those of its model.
    FIELD: (Group.RECIPE, ()),
    # The configuration has the name, and the root's salt is derived from it.
    NAME: (Group.RECIPE, BY_CONFIG),
    # Comments and the order of lines, which manifests quote.
    TEXT: (Group.RECIPE, ()),
    KEY: (Group.CONFIGURATION, BY_CONFIG),
    "package": (Group.INPUTS, BY_UKI),
    "kernel package": (Group.INPUTS, BY_UKI),
    "firmware package": (Group.INPUTS, BY_FIRMWARE),
    "driver package": (Group.INPUTS, BY_UKI),
    "compiler package": (Group.INPUTS, BY_UKI),
    "Python wheel": (Group.INPUTS, BY_UKI),
    # Only the models in a wheel get into the image.
    "wheel": (Group.INPUTS, ()),
    "model": (Group.INPUTS, BY_CONFIG),
    "data": (Group.INPUTS, BY_CONFIG),
    "volume key": (Group.INPUTS, BY_CONFIG),
    # Only in manifests, where verifiers read it.
    "model signature": (Group.INPUTS, ()),
    "kernel option": (Group.INPUTS, BY_UKI),
    "program": (Group.INPUTS, BY_UKI),
    "recipe file": (Group.INPUTS, BY_UKI),
    "agent file": (Group.INPUTS, BY_UKI),
    "guest file": (Group.INPUTS, BY_UKI),
    "times": (Group.INPUTS, BY_CONFIG),
    "use of RTMR3": (Group.INPUTS, BY_CONFIG),
    "archive": (Group.INPUTS, ()),
    "components of archive": (Group.INPUTS, ()),
    "keyring of archive": (Group.INPUTS, ()),
    "keys of archive": (Group.INPUTS, ()),
    "tool": (Group.INPUTS, ALL),
    "tools": (Group.INPUTS, ALL),
    "recipe": (Group.INPUTS, ALL),
    "file": (Group.RESULTS, BY_UKI),
    "initrd file": (Group.RESULTS, BY_UKI),
    "model file": (Group.RESULTS, BY_CONFIG),
    "data file": (Group.RESULTS, BY_CONFIG),
    "UKI section": (Group.RESULTS, BY_UKI),
    "root hash": (Group.RESULTS, BY_UKI),
    "model volume": (Group.RESULTS, BY_CONFIG),
    "data volume": (Group.RESULTS, BY_CONFIG),
    "measured configuration": (Group.RESULTS, BY_CONFIG),
    "firmware": (Group.RESULTS, BY_FIRMWARE),
    # The registers of a superblock's field depend on the volume.
    SUPERBLOCK: (Group.RESULTS, ()),
    # Files that are not measured, or measured only through other listed changes.
    "output": (Group.RESULTS, ()),
}
MOVES = {kind: moves for kind, (_, moves) in _KINDS.items()}
# Different tools can change anything, and a change of the recipe can be significant or only a comment.
PERHAPS = frozenset({"tool", "tools", "recipe"})
MAYBE = "perhaps "
"""The beginning of a cause that is only possible."""
_SHOWN = 4


@dataclass(frozen=True)
class Change:
    """One change: kind, name, old value and new value.

    ``registers`` are those that it moves if its kind alone does not say. ``because`` names the changes of recipe and
    inputs that it follows from; ``explained`` is False for a result that follows from none, None if nobody asked.
    """

    kind: str
    name: str
    before: str
    after: str
    registers: tuple[str, ...] | None = None
    because: tuple[str, ...] = ()
    explained: bool | None = None
    # What the table of causes says about an unexplained difference.
    likely: str = ""

    @property
    def moves(self) -> tuple[str, ...]:
        """The registers that this change moves."""
        return MOVES[self.kind] if self.registers is None else self.registers

    @property
    def group(self) -> Group:
        """The group that reports list it in."""
        return _KINDS[self.kind][0]

    @property
    def certain(self) -> bool:
        """False if it depends on the change whether the registers move."""
        return self.kind not in PERHAPS

    @property
    def title(self) -> str:
        """Kind and name; of a recipe's field and a key of the configuration only the name."""
        return self.name if self.kind in (FIELD, KEY) else f"{self.kind} {self.name}"

    def following(self, because: tuple[str, ...], cause: Cause | None = None) -> Change:
        """This change with what it follows from; ``cause`` is its row of the table if it follows from nothing."""
        likely = "" if because or cause is None or cause.id in FOLLOWS else f"{cause.cause}; fix: {cause.fix}"
        return replace(self, because=because, explained=bool(because), likely=likely)

    def effect(self) -> str:
        """The registers that it moves, as a list."""
        return ", ".join(self.moves) or "nothing"

    def cause(self) -> str:
        """What it follows from, as a phrase; empty for a cause of others."""
        if self.explained is False:
            return f"unexplained ({self.likely})" if self.likely else "unexplained"
        return following(self.because)

    def text(self) -> str:
        """One line of text."""
        cause = self.cause()
        verb = "moves" if self.certain else "may move"
        return f"{self.title}: {self.before} -> {self.after} [{verb} {self.effect()}]{f'; {cause}' if cause else ''}"

    def to_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "group": self.group.title,
            "kind": self.kind,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "moves": list(self.moves),
            "certain": self.certain,
            "because": list(self.because),
            "explained": self.explained,
            "likely": self.likely,
        }


def following(because: Sequence[str]) -> str:
    """What a change follows from, as a phrase; empty for nothing."""
    verb = "may follow" if because and all(name.startswith(MAYBE) for name in because) else "follows"
    names = shown([name.removeprefix(MAYBE) for name in because])
    return f"{verb} from {', '.join(names)}" if because else ""


def shown(because: Sequence[str]) -> tuple[str, ...]:
    """A short list of causes."""
    left = len(because) - _SHOWN
    return (*because[:_SHOWN], f"{left} more") if left > 1 else tuple(because)


def limited(found: Iterable[Change], tees: Iterable[str]) -> list[Change]:
    """The same changes; they move the registers of guests in ``tees`` only."""
    known = {register for tee in tees for register in REGISTERS[tee]}
    return [
        change
        if known.issuperset(change.moves)
        else replace(change, registers=tuple(filter(known.__contains__, change.moves)))
        for change in found
    ]


def registers_moved(found: Iterable[Change]) -> tuple[list[str], list[str]]:
    """The registers that changes move for certain, and those that may move."""
    found = list(found)
    certain = {register for change in found if change.certain for register in change.moves}
    possible = {register for change in found if not change.certain for register in change.moves}
    return sorted(certain), sorted(possible - certain)
