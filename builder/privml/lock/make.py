"""Make a recipe's lock, keep its pins, and tell whether it is still the lock of what is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import sha256_file
from privml.lock.apt import AptTools, Resolution, Wanted, resolve
from privml.lock.aptstate import Kept
from privml.lock.changes import tree_changes
from privml.lock.debian import upstream_version
from privml.lock.models import Archive, Lock, Package, ToolsLock, Tree, Wheel
from privml.lock.trees import agent_tree, guest_tree
from privml.recipe.distributions import TOOLS, Distribution, Kernel, Suite
from privml.recipe.loader import Recipe
from privml.recipe.packages import engine_packages, firmware_packages, guest_packages
from privml.store.fetch import Item, fetch
from privml.store.mirrors import Mirrors, host_mirrors, urls_of
from privml.store.objects import Store
from privml.store.pools import Pool
from privml.store.pypi import download_wheel, ensure_wheel

log = logging.getLogger("privml")
_SHOWN = 6


@dataclass(frozen=True)
class Solver:
    """What is needed to choose packages again. ``tools`` is only called then: it may have to make a tree."""

    tools: Callable[[Distribution], AptTools]
    mirrors: Callable[[], Mirrors] = host_mirrors
    allow_expired: bool = False
    # None keeps all pins, an empty tuple moves all, names move those.
    upgrade: tuple[str, ...] | None = None
    now: datetime | None = None


@dataclass(frozen=True)
class Current:
    """The inputs that lie in this checkout, as they are now."""

    recipe_sha256: str
    agent: Tree
    guest: Tree
    tools_sha256: str


def current_inputs(recipe: Recipe, images: Path, tools_lock: Path, *, source: Path | None = None) -> Current:
    """Look at the checkout; no network, no store."""
    if not tools_lock.is_file():
        raise InputsError(f"{tools_lock} is not there", hint="make it with `privml-build lock --tools`")
    return Current(
        recipe.digest,
        agent_tree(recipe.content.variant, source),
        guest_tree(images, recipe.content),
        sha256_file(tools_lock),
    )


def make_lock(recipe: Recipe, current: Current, previous: Lock | None, store: Store, solver: Solver) -> Lock:
    """The lock of ``recipe`` as it is now; packages stay as in ``previous`` unless they must or shall move."""
    requested, firmware = guest_packages(recipe), firmware_packages(recipe)
    system = recipe.content.base.record
    suites = system.release.suites
    if previous is not None and solver.upgrade is None and _same_request(previous, requested, firmware, suites):
        archives, packages, alone = previous.archives, previous.packages, previous.firmware
    else:
        known = (*previous.packages, *previous.firmware) if previous is not None else ()
        pins = _pins(known, solver)
        found = solve(
            Wanted(
                system,
                requested,
                firmware,
                pins,
                kernel=_kernel(system.distribution.kernel, previous, requested, pins, store, solver),
            ),
            known,
            previous.archives if previous else (),
            store,
            solver,
        )
        archives, packages, alone = found.archives, found.packages, found.alone
    check_packages(recipe, packages)
    return Lock(
        recipe_sha256=current.recipe_sha256,
        source_date_epoch=_epoch(archives),
        archives=archives,
        packages_requested=requested,
        packages=packages,
        firmware_requested=firmware,
        firmware=alone,
        wheels=_wheels(recipe, previous, store),
        agent=current.agent,
        guest=current.guest,
        tools_sha256=current.tools_sha256,
    )


def make_tools_lock(previous: ToolsLock | None, store: Store, solver: Solver) -> ToolsLock:
    """The tools lock; it stays as it is unless the list of tools changed or an upgrade is wanted."""
    requested = TOOLS.distribution.packages.tools
    if (
        previous is not None
        and solver.upgrade is None
        and previous.packages_requested == requested
        and _of_suites(previous.archives, TOOLS.release.suites)
    ):
        return previous
    known = previous.packages if previous else ()
    wanted = Wanted(TOOLS, requested, (), _pins(known, solver))
    found = solve(wanted, known, previous.archives if previous else (), store, solver)
    return ToolsLock(
        source_date_epoch=_epoch(found.archives),
        archives=found.archives,
        packages_requested=requested,
        packages=found.packages,
    )


def check(recipe: Recipe, lock: Lock, current: Current, *, path: Path | None = None) -> None:
    """``InputsError`` that names each part of the lock (at ``path``) that is no longer what is there."""
    stale = []
    if lock.recipe_sha256 != current.recipe_sha256:
        stale.append("recipe: it, or what it extends, was changed after the lock was made")
    if lock.packages_requested != guest_packages(recipe) or lock.firmware_requested != firmware_packages(recipe):
        stale.append("packages: this privml-build asks for others than the lock was made for")
    for name, was, now in (("agent", lock.agent, current.agent), ("guest", lock.guest, current.guest)):
        if was.sha256 != now.sha256:
            stale += _some(tree_changes(name, was, now))
    if lock.tools_sha256 != current.tools_sha256:
        stale.append("tools: the tools lock is another one")
    if stale:
        raise InputsError(
            f"{(path or recipe.lock_path).name} is stale:\n" + "\n".join(f"  {line}" for line in stale),
            hint=f"renew it with `privml-build lock {recipe.name}`; packages stay as they are",
        )


def bring(
    store: Store,
    packages: Iterable[Package],
    wheels: Iterable[Wheel] = (),
    *,
    pools: Sequence[Pool] = (),
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Bring the locked bytes that the store lacks, from pools, then mirrors; the number of bytes fetched.

    Offline when nothing is missing. ``GoneError`` names every package that no source has any more.
    """
    missing = [package for package in packages if not store.has(package.sha256)]
    fetched = 0
    if missing:
        known = mirrors()
        fetched = fetch(
            store,
            [Item(package.sha256, package.size, str(package), urls_of(package.origin, known)) for package in missing],
            pools=pools,
        )
    for wheel in wheels:
        if not store.has(wheel.sha256):
            fetched += _bring_wheel(store, wheel, pools)
    return fetched


def _bring_wheel(store: Store, wheel: Wheel, pools: Sequence[Pool]) -> int:
    if pools:
        try:
            return fetch(store, [Item(wheel.sha256, wheel.size, str(wheel), ())], pools=pools)
        except InputsError as error:
            log.debug("no pool has it: %s", error.message)
    ensure_wheel(store, wheel.name, wheel.version, wheel.sha256)
    return wheel.size


def solve(
    wanted: Wanted, held: Iterable[Package], before: Sequence[Archive], store: Store, solver: Solver
) -> Resolution:
    """Resolve, keeping what is pinned: also the .debs of ``held`` in the store that no archive lists any more."""
    kept = [package for package in held if package.name in wanted.pins and store.has(package.sha256)]
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


def _same_request(previous: Lock, requested: Sequence[str], firmware: Sequence[str], suites: Sequence[Suite]) -> bool:
    return (
        previous.packages_requested == requested
        and previous.firmware_requested == firmware
        and _of_suites(previous.archives, suites)
    )


def _of_suites(archives: Sequence[Archive], suites: Sequence[Suite]) -> bool:
    return [(archive.label, archive.suite) for archive in archives] == [
        (suite.archive, suite.name) for suite in suites
    ]


def _pins(packages: Iterable[Package], solver: Solver) -> dict[str, str]:
    if solver.upgrade == ():
        return {}
    moving = solver.upgrade or ()
    return {package.name: package.version for package in packages if package.name not in moving}


def _kernel(
    kernel: Kernel,
    previous: Lock | None,
    requested: Sequence[str],
    pins: Mapping[str, str],
    store: Store,
    solver: Solver,
) -> tuple[str, ...]:
    """The locked kernel's packages when the same kernel is asked for, it shall stay, and all of it is here."""
    images = list(filter(kernel.is_image, requested))
    if previous is None or not images or images != list(filter(kernel.is_image, previous.packages_requested)):
        return ()
    if set(images) & set(solver.upgrade or ()):
        return ()
    held = [package for package in previous.packages if kernel.is_kernel(package.name)]
    here = all(package.name in pins and store.has(package.sha256) for package in held)
    return kernel.chosen(package.name for package in held) if here else ()


def _epoch(archives: Sequence[Archive]) -> int:
    return Resolution(tuple(archives), (), (), (), ()).epoch


def check_packages(recipe: Recipe, packages: Iterable[Package]) -> None:
    """``InputsError`` when a guest would hold what it may not, or another version of the engine than is asked for."""
    versions = {package.name: package.version for package in packages}
    if recipe.content.variant == "production":
        found = sorted(versions.keys() & set(recipe.content.base.record.distribution.packages.forbidden))
        if found:
            raise InputsError(
                f"{recipe.name}: a production guest may not hold {', '.join(found)}",
                hint="something requested depends on it; ask for its parts instead",
            )
    wanted = None if recipe.content.inference is None else recipe.content.inference.engine.version
    if wanted is None:
        return
    package = engine_packages(recipe)[0]
    got = upstream_version(versions.get(package, ""))
    if got.split(".")[: len(wanted.split("."))] != wanted.split("."):
        raise InputsError(
            f"{recipe.origin('inference.engine.version')}: got {package} {versions.get(package, 'none')}, "
            f"expected version {wanted}",
            hint="ask for the version that the archive has, or leave the field out",
        )


def _wheels(recipe: Recipe, previous: Lock | None, store: Store) -> tuple[Wheel, ...]:
    if recipe.content.inference is None:
        return ()
    (model,) = recipe.content.inference.models
    name, version = model.requirement
    for wheel in previous.wheels if previous is not None else ():
        if (wheel.name, wheel.version) == (name, version):
            return (wheel,)
    file, sha256, size = download_wheel(store, name, version)
    if not file.endswith("-none-any.whl"):
        raise InputsError(
            f"{recipe.origin('inference.models[0].source')}: `{file}` is made for one kind of machine, so which "
            "wheel is taken would depend on who locks; expected a `-none-any.whl`"
        )
    return (Wheel(name=name, version=version, file=file, sha256=sha256, size=size, origin=f"pypi:{name}/{file}"),)


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]
