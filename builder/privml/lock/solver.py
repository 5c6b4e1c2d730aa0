"""Resolve requests with apt, keeping locked versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from privml.lock.apt import resolve
from privml.lock.aptstate import Kept
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import Archive
from privml.lock.models import Package
from privml.lock.wanted import Resolution, Wanted
from privml.recipe.distributions import Distribution
from privml.store.mirrors import Mirrors, host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool


@dataclass(frozen=True)
class Solver:
    """Inputs for resolving packages. ``tools`` is called only then, because it may have to create a tree."""

    tools: Callable[[Distribution], AptTools]
    mirrors: Callable[[], Mirrors] = host_mirrors
    allow_expired: bool = False
    # None keeps all pins, an empty tuple upgrades all, names upgrade those packages.
    upgrade: tuple[str, ...] | None = None
    # Tried before mirrors, for models.
    pools: Sequence[Pool] = ()
    now: datetime | None = None


def solve(
    wanted: Wanted, held: Iterable[Package], before: Sequence[Archive], store: Store, solver: Solver
) -> Resolution:
    """Resolve and keep pins, including .debs of ``held`` in the store that no archive lists any more."""
    kept = [each for each in held if wanted.pins.get(each.name) == each.version and store.has(each.sha256)]
    found = resolve(
        solver.tools(wanted.base.distribution),
        solver.mirrors(),
        replace(wanted, kept=tuple(Kept.of(store, package) for package in kept)),
        before=before,
        allow_expired=solver.allow_expired,
        now=solver.now,
    )
    for inrelease in found.inreleases:
        store.add_bytes(inrelease)
    return found


def pins_of(packages: Iterable[Package], solver: Solver) -> dict[str, str]:
    """The versions of ``packages`` that are not to be upgraded."""
    if solver.upgrade == ():
        return {}
    moving = solver.upgrade or ()
    return {package.name: package.version for package in packages if package.name not in moving}
