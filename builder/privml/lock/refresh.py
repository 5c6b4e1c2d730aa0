"""Refresh a lock next to the committed one when inputs are no longer available, changing as little as possible.

Packages in the store or a pool are kept, even if the archives have newer versions: apt gets these .debs as a pinned
local repository. If the solution requires a kept package to change too, its pin is released. The times of the image
do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privml.base.errors import InputsError
from privml.base.steps import say
from privml.lock.addedarchives import archives_of
from privml.lock.changes import package_changes
from privml.lock.make import check_packages, kernel_that_stays, with_archives
from privml.lock.models import Lock, Package, ToolsLock, VendorFile
from privml.lock.solver import Solver, solve
from privml.lock.wanted import Wanted
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request
from privml.store.fetch import GoneError
from privml.store.objects import Store

Bring = Callable[[Sequence[Package | VendorFile]], object]


def gone_of(bring: Bring, packages: Sequence[Package | VendorFile]) -> frozenset[str]:
    """Fetch ``packages``; returns the SHA-256 of those that no source has any more."""
    try:
        bring(packages)
    except GoneError as error:
        return frozenset(item.sha256 for item in error.items)
    return frozenset()


def refresh(recipe: Recipe, lock: Lock, store: Store, solver: Solver, bring: Bring) -> Lock:
    """``lock`` with unavailable packages replaced; the same lock if none is missing."""
    held = lock.debs
    for what, files in (("driver", lock.driver_files), ("compiler", lock.compiler_debs)):
        if lost := gone_of(bring, files):
            names = ", ".join(str(file) for file in files if file.sha256 in lost)
            raise InputsError(
                f"{recipe.name}: packages of the {what} are gone, and another {what} is another build: {names}",
                hint="give a pool that has them with --pool, or choose packages again with `privml-build lock "
                "--upgrade`",
            )
    gone = gone_of(bring, held)
    if not gone:
        return lock
    _report(recipe.name, held, gone)
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
    wanted = with_archives(wanted, archives_of(recipe), lock, store)
    found = solve(wanted, here, lock.states, store, solver)
    _check_available((*found.packages, *found.alone), gone)
    check_packages(recipe, found.packages)
    firmware = {
        tee: each.model_copy(update={"packages": (package,)})
        for (tee, each), package in zip(lock.firmware.items(), found.alone, strict=True)
    }
    new = {"archives": found.archives, "packages": found.packages, "firmware": firmware}
    return lock.model_copy(update={**new, "added_archives": found.added})


def refresh_tools(lock: ToolsLock, store: Store, solver: Solver, bring: Bring) -> ToolsLock:
    """The tools lock with unavailable packages replaced; the same lock if none is missing."""
    gone = gone_of(bring, lock.packages)
    if not gone:
        return lock
    _report("tools", lock.packages, gone)
    here = [package for package in lock.packages if package.sha256 not in gone]
    pins = {package.name: package.version for package in here}
    wanted = Wanted(lock.base.record, tuple(map(Request.parse, lock.packages_requested)), (), pins)
    found = solve(wanted, here, lock.archives, store, solver)
    _check_available(found.packages, gone)
    return lock.model_copy(update={"archives": found.archives, "packages": found.packages})


def refresh_hint(name: str, verb: str) -> str:
    """Hint for unavailable inputs of recipe ``name``: replace them, then run ``verb`` with the new lock."""
    elsewhere = f"out/locks/{name}.lock.json"
    return (
        "replace only the missing packages, then continue with the new lock: "
        f"`privml-build lock {name} --refresh-to {elsewhere}`, then `privml-build {verb} {name} --lock {elsewhere}`"
    )


def _check_available(found: Sequence[Package], gone: frozenset[str]) -> None:
    """Raise ``InputsError`` if the archive still lists a package that no mirror has; apt would not replace it."""
    absent = [str(package) for package in found if package.sha256 in gone]
    if absent:
        raise InputsError(
            f"the archive lists {', '.join(absent)}, but no mirror has it",
            hint="a mirror is being updated, or a proxy hides files: try later, or use another mirror",
        )


def _report(name: str, held: Sequence[Package], gone: frozenset[str]) -> None:
    here = [package for package in held if package.sha256 not in gone]
    say(f"{name}: {len(gone)} of {len(held)} locked packages are gone; {len(here)} are kept as they are")
    for line in package_changes("gone", held, here):
        say(f"  {line}")
