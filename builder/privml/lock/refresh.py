"""A lock beside the committed one, for when inputs are gone: only what is gone moves, and what that forces.

Whatever the store or a pool still has is kept, also where the archives have moved on: apt is offered those very
.debs as a repository of their own, pinned. Where its solution needs a kept package to move too, that one is let go.
The times of the image stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privml.base.errors import InputsError
from privml.base.steps import say
from privml.lock.changes import package_changes
from privml.lock.make import Solver, check_packages, kernel_that_stays, solve
from privml.lock.models import Lock, Package, ToolsLock
from privml.lock.wanted import Wanted
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request
from privml.store.fetch import GoneError
from privml.store.objects import Store

Bring = Callable[[Sequence[Package]], object]


def gone_of(bring: Bring, packages: Sequence[Package]) -> frozenset[str]:
    """Bring ``packages``; the SHA-256 of those that no source has any more."""
    try:
        bring(packages)
    except GoneError as error:
        return frozenset(item.sha256 for item in error.items)
    return frozenset()


def refresh(recipe: Recipe, lock: Lock, store: Store, solver: Solver, bring: Bring) -> Lock:
    """``lock`` with what is gone replaced; the same lock when nothing is gone."""
    held = lock.debs
    gone = gone_of(bring, held)
    if not gone:
        return lock
    _tell(recipe.name, held, gone)
    here = [package for package in held if package.sha256 not in gone]
    pins = {package.name: package.version for package in here}
    base = lock.base.record
    wanted = Wanted(
        base,
        tuple(map(Request.parse, lock.packages_requested)),
        tuple(Request.parse(each.requested) for each in lock.firmware.values()),
        pins,
        kernel=kernel_that_stays(base.distribution.kernel, lock.packages, pins, store),
    )
    found = solve(wanted, here, lock.archives, store, solver)
    _no_ghosts((*found.packages, *found.alone), gone)
    check_packages(recipe, found.packages)
    firmware = {
        tee: each.model_copy(update={"packages": (package,)})
        for (tee, each), package in zip(lock.firmware.items(), found.alone, strict=True)
    }
    return lock.model_copy(update={"archives": found.archives, "packages": found.packages, "firmware": firmware})


def refresh_tools(lock: ToolsLock, store: Store, solver: Solver, bring: Bring) -> ToolsLock:
    """The tools lock with what is gone replaced; the same lock when nothing is gone."""
    gone = gone_of(bring, lock.packages)
    if not gone:
        return lock
    _tell("tools", lock.packages, gone)
    here = [package for package in lock.packages if package.sha256 not in gone]
    pins = {package.name: package.version for package in here}
    wanted = Wanted(lock.base.record, tuple(map(Request.parse, lock.packages_requested)), (), pins)
    found = solve(wanted, here, lock.archives, store, solver)
    _no_ghosts(found.packages, gone)
    return lock.model_copy(update={"archives": found.archives, "packages": found.packages})


def refresh_hint(name: str, verb: str) -> str:
    """What to do when inputs of recipe ``name`` are gone: the command that replaces them, then ``verb`` by that."""
    elsewhere = f"out/locks/{name}.lock.json"
    return (
        "replace only what is gone, and go on by that: "
        f"`privml-build lock {name} --refresh-to {elsewhere}`, then `privml-build {verb} {name} --lock {elsewhere}`"
    )


def _no_ghosts(found: Sequence[Package], gone: frozenset[str]) -> None:
    """``InputsError`` when the archive still lists what no mirror of it has: then nothing can take its place."""
    ghosts = [str(package) for package in found if package.sha256 in gone]
    if ghosts:
        raise InputsError(
            f"the archive still lists {', '.join(ghosts)}, and no mirror has it",
            hint="a mirror is being updated, or a proxy hides files: try later, or give another mirror",
        )


def _tell(name: str, held: Sequence[Package], gone: frozenset[str]) -> None:
    here = [package for package in held if package.sha256 not in gone]
    say(f"{name}: {len(gone)} of {len(held)} locked packages are gone; {len(here)} are kept as they are")
    for line in package_changes("gone", held, here):
        say(f"  {line}")
