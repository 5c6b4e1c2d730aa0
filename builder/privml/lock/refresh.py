"""A lock beside the committed one, for when inputs are gone: only what is gone moves, and what that forces.

Whatever the store or a pool still has is kept, also where the archives have moved on: apt is offered those very
.debs as a repository of their own, pinned. Where its solution needs a kept package to move too, that one is let go.
The times of the image stay as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from privml.base.errors import InputsError
from privml.base.steps import say
from privml.lock.apt import Session, Wanted, in_order, suites_of
from privml.lock.aptstate import Kept
from privml.lock.changes import package_changes
from privml.lock.make import TOOLS_RELEASE, Solver, check_packages, judged_archives
from privml.lock.models import Archive, Lock, Package, ToolsLock
from privml.recipe.loader import Recipe
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
    held = (*lock.packages, *lock.firmware)
    gone = gone_of(bring, held)
    if not gone:
        return lock
    _tell(recipe.name, held, gone)
    kernel = [package for package in lock.packages if package.name.startswith("linux-")]
    kernel_stays = not any(package.sha256 in gone for package in kernel)
    roots: list[str] = []
    for name in lock.packages_requested:
        if kernel_stays and name.startswith("linux-image-"):
            # The metapackage would lead to a newer kernel, although the locked one is here.
            roots += [package.name for package in kernel if package.name.startswith(_kernel_parts(kernel))]
        else:
            roots.append(name)
    found = _solve(
        store,
        held,
        gone,
        Wanted(suites_of(recipe.content.base.release), tuple(roots), lock.firmware_requested),
        lock.archives,
        solver,
    )
    check_packages(recipe, found.packages)
    return lock.model_copy(update={"archives": found.archives, "packages": found.packages, "firmware": found.alone})


def refresh_tools(lock: ToolsLock, store: Store, solver: Solver, bring: Bring) -> ToolsLock:
    """The tools lock with what is gone replaced; the same lock when nothing is gone."""
    gone = gone_of(bring, lock.packages)
    if not gone:
        return lock
    _tell("tools", lock.packages, gone)
    wanted = Wanted(suites_of(TOOLS_RELEASE), lock.packages_requested)
    found = _solve(store, lock.packages, gone, wanted, lock.archives, solver)
    return lock.model_copy(update={"archives": found.archives, "packages": found.packages})


@dataclass(frozen=True)
class _Solution:
    archives: tuple[Archive, ...]
    packages: tuple[Package, ...]
    alone: tuple[Package, ...]


def _solve(
    store: Store,
    held: Sequence[Package],
    gone: frozenset[str],
    wanted: Wanted,
    before: Sequence[Archive],
    solver: Solver,
) -> _Solution:
    here = [package for package in held if package.sha256 not in gone]
    pins = {package.name: package.version for package in here}
    tools = solver.tools()
    wanted = replace(wanted, pins=pins, kept=tuple(Kept.of(store, package) for package in here))
    with Session.opened(tools, solver.mirrors(), wanted) as session:
        archives = judged_archives(session, before, store, solver)
        indexes = session.indexes()
        requested = [part for name in wanted.install for part in session.kernel_parts(name, indexes)]
        while True:
            try:
                packages = session.solve(requested, indexes)
                alone = [session.candidate(name, indexes) for name in wanted.alone]
                break
            except InputsError as error:
                forced = _blamed(error.message, pins)
                if not forced:
                    raise
                say("what is gone forces others to move: " + ", ".join(forced))
                pins = {name: version for name, version in pins.items() if name not in forced}
                session.pin(pins)
    known = {(package.name, package.sha256): package for package in held}
    # The very record of before, so that a package which stays is no line of the diff.
    packages = [known.get((package.name, package.sha256), package) for package in packages]
    alone = [known.get((package.name, package.sha256), package) for package in alone]
    return _Solution(archives, in_order(packages), in_order(alone))


def _blamed(message: str, pins: Mapping[str, str]) -> list[str]:
    """The pinned packages that apt's complaint names; all of them when it names none."""
    # Only apt's lines about relations: its prose holds words such as "file" and "time", which are packages too.
    lines = [line for line in message.splitlines() if re.search(r"Depends|Breaks|Conflicts|selected", line)]
    words = {word.strip("`'\",.;()[]").partition(":")[0] for line in lines for word in line.split()}
    return sorted(words & pins.keys()) or sorted(pins)


def _kernel_parts(kernel: Iterable[Package]) -> tuple[str, ...]:
    split = any(package.name.startswith("linux-binary-") for package in kernel)
    return ("linux-binary-", "linux-modules-") if split else ("linux-image-",)


def _tell(name: str, held: Sequence[Package], gone: frozenset[str]) -> None:
    here = [package for package in held if package.sha256 not in gone]
    say(f"{name}: {len(gone)} of {len(held)} locked packages are gone; {len(here)} are kept as they are")
    for line in package_changes("gone", held, here):
        say(f"  {line}")
