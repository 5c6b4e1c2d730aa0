"""Compare two image directories with the file system tools of the tools tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from privml.base.errors import BuildError
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.repro.change import Change, Group, limited
from privml.repro.changes import changes, moved, package_changes
from privml.repro.compare import compare
from privml.repro.disk import extracted
from privml.repro.explained import explain
from privml.repro.explainer import Explainer
from privml.repro.external import Look
from privml.repro.layers import Report
from privml.repro.lockchanges import lock_changes
from privml.repro.owners import Owners
from privml.repro.recipechanges import Side, recipe_changes, side_of
from privml.repro.treecomparison import Surroundings
from privml.store.objects import Store

# What a lock repeats of the recipe, or only describes its packages.
_TOLD_ELSEWHERE = ("recipe", "program", "kernel option")


@dataclass(frozen=True)
class ImageDiff:
    """The changes between two images, those of the recipe first.

    ``registers`` maps each register that moves to the changes it follows from; None if no machine is predicted for
    both. ``notes`` say what could not be told.
    """

    report: Report
    changes: tuple[Change, ...]
    registers: dict[str, tuple[str, ...]] | None
    notes: tuple[str, ...] = ()

    @property
    def details(self) -> dict[str, str]:
        """Output of the external program for differing files, by place."""
        return {finding.place: finding.detail for finding in self.report.findings if finding.detail}

    @property
    def unexplained(self) -> tuple[Change, ...]:
        """The changes that follow from no change of recipe or inputs."""
        return tuple(change for change in self.changes if change.explained is False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        registers = self.registers
        return {
            "equal": self.report.equal,
            "registers_moved": None if registers is None else sorted(registers),
            "registers": None if registers is None else {name: list(why) for name, why in registers.items()},
            "unexplained": len(self.unexplained),
            "notes": list(self.notes),
            "changes": [change.to_dict() for change in self.changes],
            "details": self.details,
        }


def diff(a: Path, b: Path, place: Workplace, look: Look | None = None) -> ImageDiff:
    """Compare two built images and the recipes they were built from, as far as the outputs tell them."""
    one, two = side_of(a), side_of(b)
    rows = {row.sha256: (row.name, row.sha256) for side in (one, two) for row in side.manifest.packages}
    report = compared(a, b, place.tools(), Owners(rows.values(), place.store), look=look)
    return of(one, two, report)


def of(one: Side, two: Side, report: Report) -> ImageDiff:
    """The changes between two outputs whose files ``report`` compares."""
    fields, notes, untold = recipe_changes(one, two)
    tees = {*one.manifest.firmware, *two.manifest.firmware}
    inputs = limited(input_changes(one, two), tees)
    explainer = Explainer([*fields, *inputs], (one, two), untold)
    report = explain(report, explainer)
    results = limited(changes(one.manifest, two.manifest, report, explainer), tees)
    found = [*fields, *inputs, *results]
    found.sort(key=lambda change: (change.group, change.group is not Group.RECIPE and change.explained is not False))
    registers = moved(report)
    why = None if registers is None else {name: explainer.of_register(name) for name in registers}
    return ImageDiff(report, tuple(found), why, notes)


def input_changes(a: Side, b: Side) -> list[Change]:
    """What differs between the locks and volume keys of two images, but for what the recipes tell."""
    keys = list(_volume_keys(a.manifest, b.manifest))
    if a.lock is None or b.lock is None:
        return [*package_changes(a.manifest, b.manifest), *keys]
    return [*(each for each in lock_changes(a.lock, b.lock) if each.kind not in _TOLD_ELSEWHERE), *keys]


def _volume_keys(a: Manifest, b: Manifest) -> Iterator[Change]:
    """The keys of volumes that are encrypted on both sides, by what is public of them."""
    tables = [{one.name: one.crypt for one in each.filled if one.crypt is not None} for each in (a, b)]
    for name in sorted({*tables[0]} & {*tables[1]}):
        one, two = (f"{table[name].generation} {table[name].check.hex()[:16]}.." for table in tables)
        if one != two:
            yield Change("volume key", name, f"generation {one}", f"generation {two}")


def owners_of(lock: Lock, store: Store) -> Owners:
    """The package of each file, from the locked packages in the store."""
    return Owners(((package.name, package.sha256) for package in lock.packages), store)


def compared(
    a: Path,
    b: Path,
    tools: ToolsTree,
    owners: Owners,
    known: Surroundings | None = None,
    look: Look | None = None,
) -> Report:
    """Compare two image directories; ``BuildError`` if one cannot be read."""
    try:
        return compare(a, b, opener=partial(extracted, tools), owners=owners, surroundings=known, look=look)
    except OSError as error:
        raise BuildError(f"cannot compare: {error.strerror or error}: {error.filename or ''}") from error
