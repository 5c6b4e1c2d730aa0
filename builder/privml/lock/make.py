"""Create and renew locks, keeping pins, and check whether a lock is up to date."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from privml.base.errors import InputsError
from privml.events.variants import PRODUCTION
from privml.lock.addedarchives import archives_of, differences, recipe_pins, staying
from privml.lock.archiverecord import Archive, Base
from privml.lock.changes import package_changes, tree_changes
from privml.lock.compiled import compiled_of, same_compiled
from privml.lock.datafiles import changed, data_of
from privml.lock.debian import upstream_version
from privml.lock.driver import driver_of, same_driver
from privml.lock.localdebs import local_debs, store_local
from privml.lock.lockfile import read_tools_lock
from privml.lock.modelrecord import Volume
from privml.lock.models import Firmware, Lock, LockFile, Package, ToolsLock, Tree, VendorFile, Wheel
from privml.lock.modelsources import bring_volumes, local_changes, models_of
from privml.lock.record import parse_time
from privml.lock.requirements import requirements_of, same_requirements
from privml.lock.solver import Solver, pins_of, solve
from privml.lock.trees import agent_tree, guest_tree, own_tree
from privml.lock.wanted import Resolution, Wanted, WantedArchive, unused_pins
from privml.lock.wheels import bring_wheel, wheels_of
from privml.recipe import distributions
from privml.recipe.compression import COMPRESSIONS
from privml.recipe.distributions import TOOLS, Kernel
from privml.recipe.loader import Recipe
from privml.recipe.packages import Request, engine_packages, firmware_packages, guest_packages
from privml.store.fetch import Item, fetch
from privml.store.mirrors import Mirrors, host_mirrors, urls_of
from privml.store.objects import Store
from privml.store.pools import Pool

_SHOWN = 6


@dataclass(frozen=True)
class Current:
    """The current inputs in this checkout."""

    recipe_sha256: str
    agent: Tree
    guest: Tree
    tools_sha256: str
    files: Tree | None = None
    local: tuple[Package, ...] = ()
    archives: tuple[WantedArchive, ...] = ()


def current_inputs(recipe: Recipe, images: Path, tools_lock: Path, *, source: Path | None = None) -> Current:
    """Read the checkout, without network or store."""
    return Current(
        recipe.digest,
        agent_tree(recipe.content.variant, source),
        guest_tree(images, recipe.content),
        read_tools_lock(tools_lock).digest,
        own_tree(recipe),
        tuple(each.package for each in local_debs(recipe)),
        archives_of(recipe),
    )


def make_lock(recipe: Recipe, current: Current, previous: Lock | None, store: Store, solver: Solver) -> Lock:
    """The current lock of ``recipe``.

    Packages keep their previous versions unless the request changed or an upgrade was asked for. With another base,
    all of them are chosen again.
    """
    local = tuple(each.package for each in local_debs(recipe))
    store_local(recipe, store)
    packaged = _of_base(recipe.content.base.record, previous)
    wanted = wanted_of(recipe, packaged, store, solver)
    if local:
        pins = {**wanted.pins, **{package.name: package.version for package in local}}
        wanted = replace(wanted, install=(*wanted.install, *_requests(local)), pins=pins)
    wanted = with_archives(wanted, current.archives, packaged, store)
    same = packaged is None or (set(local) == set(packaged.local) and not [*differences(current.archives, packaged)])
    if packaged is not None and solver.upgrade is None and same and _same_request(packaged, wanted, recipe):
        archives, packages, firmware = packaged.archives, packaged.packages, dict(packaged.firmware)
        added = packaged.added_archives
    else:
        names = {package.name for package in local}
        held = [each for each in (packaged.debs if packaged else ()) if each.name not in names]
        try:
            found = solve(wanted, (*held, *local), previous.states if previous else (), store, solver)
        except InputsError as error:
            error.hint = error.hint or _engine_hint(recipe, error.message)
            raise
        archives, packages, firmware = found.archives, found.packages, firmware_of(wanted, found, recipe)
        added = found.added
    unused_pins(current.archives, packages)
    check_packages(recipe, packages)
    python = wheels_of(recipe, previous, store)
    requirements = requirements_of(recipe, previous, store, solver.pools)
    return Lock(
        base=Base.of(wanted.base),
        recipe_sha256=current.recipe_sha256,
        source_date_epoch=epoch_of(archives),
        archives=archives,
        packages_requested=tuple(map(str, wanted.install)),
        packages=packages,
        firmware=firmware,
        models=models_of(recipe, python, previous, store, pools=solver.pools, mirrors=solver.mirrors),
        python=python,
        blobs=(),
        agent=current.agent,
        guest=current.guest,
        tools_sha256=current.tools_sha256,
        files=current.files,
        kernel_options=tuple(recipe.content.kernel.options),
        programs=tuple(recipe.content.programs),
        added_archives=added,
        driver=driver_of(recipe, packages, previous, store, solver),
        requirements=requirements,
        compiled=compiled_of(recipe, requirements, previous, store, solver),
        data=data_of(recipe, previous, store),
    )


def wanted_of(recipe: Recipe, previous: Lock | None, store: Store, solver: Solver) -> Wanted:
    """The recipe's requests, with the pins of ``previous`` for all unchanged requests."""
    requested, firmware = guest_packages(recipe), firmware_packages(recipe)
    base = recipe.content.base.record
    if previous is None:
        return Wanted(base, requested, tuple(firmware.values()))
    kernel = base.distribution.kernel
    held = list(previous.packages)
    images = [str(each) for each in requested if kernel.is_image(each.name)]
    same_kernel = images == [name for name in previous.packages_requested if kernel.is_image(name)]
    if not same_kernel:
        held = [package for package in held if not kernel.is_kernel(package.name)]
    for tee, each in previous.firmware.items():
        if tee in firmware and each.requested == str(firmware[tee]):
            held += each.packages
    pins = pins_of(held, solver)
    moving = {Request.parse(image).name for image in images} & set(solver.upgrade or ())
    stays = kernel_that_stays(kernel, previous.packages, pins, store) if same_kernel and not moving else ()
    return Wanted(base, requested, tuple(firmware.values()), pins, kernel=stays)


def with_archives(wanted: Wanted, archives: Sequence[WantedArchive], previous: Lock | None, store: Store) -> Wanted:
    """``wanted`` with the recipe's archives and its pins of their packages."""
    if not archives:
        return wanted
    pins = {**wanted.pins, **recipe_pins(archives)}
    kept = tuple(archives) if previous is None else staying(archives, previous, wanted.install, pins, store)
    return replace(wanted, archives=kept, pins=pins)


def firmware_of(wanted: Wanted, found: Resolution, recipe: Recipe) -> dict[str, Firmware]:
    """The packages resolved without dependencies, by the TEE of their firmware."""
    asked = zip(firmware_packages(recipe), wanted.alone, found.alone, strict=True)
    return {tee: Firmware(requested=str(request), packages=(package,)) for tee, request, package in asked}


def make_tools_lock(previous: ToolsLock | None, store: Store, solver: Solver) -> ToolsLock:
    """The tools lock; unchanged unless the list of tools changed or an upgrade was asked for."""
    wanted = tools_wanted(pins_of(previous.packages if previous else (), solver))
    if previous is not None and solver.upgrade is None and _same_packages(previous, wanted):
        return previous
    held = previous.packages if previous else ()
    found = solve(wanted, held, previous.archives if previous else (), store, solver)
    return ToolsLock(
        base=Base.of(TOOLS),
        source_date_epoch=epoch_of(found.archives),
        archives=found.archives,
        packages_requested=tuple(map(str, wanted.install)),
        packages=found.packages,
    )


def tools_wanted(pins: Mapping[str, str]) -> Wanted:
    """The package requests of the tools tree."""
    return Wanted(TOOLS, tuple(map(Request, TOOLS.distribution.packages.tools)), (), pins)


def check(recipe: Recipe, lock: Lock, current: Current, *, path: Path | None = None) -> None:
    """Raise ``InputsError`` naming each part of the lock (at ``path``) that does not match the checkout."""
    stale = []
    if lock.recipe_sha256 != current.recipe_sha256:
        stale.append("recipe: it, or a recipe it extends, changed after the lock was written")
    requested = tuple(map(str, (*guest_packages(recipe), *_requests(current.local))))
    if lock.packages_requested != requested or not _same_firmware(lock, recipe):
        stale.append("packages: this privml-build requests different packages")
    if not same_driver(recipe, lock.packages, lock.driver):
        stale.append("driver: this privml-build requests different packages")
    if not same_requirements(recipe, lock):
        stale.append("python: the recipe asks for other wheels, or its release has another Python")
    if not same_compiled(lock):
        stale.append("compiled: this privml-build compiles other modules for the wheels, or with other packages")
    stale += [*local_changes(recipe, lock), *_some(changed(recipe, lock)), *differences(current.archives, lock)]
    for name, was, now in (("agent", lock.agent, current.agent), ("guest", lock.guest, current.guest)):
        if was.sha256 != now.sha256:
            stale += _some(tree_changes(name, was, now))
    if set(lock.local) != set(current.local):
        stale += _some(package_changes("local package", lock.local, current.local))
    if lock.files != current.files:
        stale += _some(tree_changes("file", lock.files or Tree.of([]), current.files or Tree.of([])))
    if lock.tools_sha256 != current.tools_sha256:
        stale.append("tools: the tools lock changed")
    if stale:
        raise InputsError(
            f"{(path or recipe.lock_path).name} is stale:\n" + "\n".join(f"  {line}" for line in stale),
            hint=f"renew it with `privml-build lock {recipe.name}`; packages stay as they are",
        )


def bring(
    store: Store,
    packages: Iterable[Package | VendorFile],
    wheels: Iterable[Wheel] = (),
    volumes: Iterable[Volume] = (),
    *,
    folder: Path | None = None,
    pools: Sequence[Pool] = (),
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Fetch locked inputs missing from the store, from pools, then mirrors; returns the number of bytes fetched.

    ``folder`` is that of the recipe, whose models and data may be next to it. Uses no network if nothing is missing.
    ``GoneError`` names every package that no source has any more.
    """
    missing = [package for package in packages if not store.has(package.sha256)]
    fetched = 0
    if missing:
        known = mirrors()
        fetched = fetch(
            store,
            [Item(package.sha256, package.size, str(package), _addresses(package, known)) for package in missing],
            pools=pools,
        )
    for wheel in wheels:
        if not store.has(wheel.sha256):
            fetched += bring_wheel(store, wheel, pools)
    return fetched + bring_volumes(store, volumes, folder, pools=pools, mirrors=mirrors)


def _addresses(package: Package | VendorFile, known: Mirrors) -> tuple[str, ...]:
    if isinstance(package, VendorFile):
        return (package.url,)
    return urls_of(package.archive, package.path, known)


def _of_base(base: distributions.Base, previous: Lock | None) -> Lock | None:
    """``previous`` if its packages can be kept: those of another release would be installed next to this one's."""
    return previous if previous is not None and previous.base.record == base else None


def _engine_hint(recipe: Recipe, message: str) -> str | None:
    """What to do when it is the engine that apt cannot install on this base."""
    for name in engine_packages(recipe):
        if re.search(rf"(?<![\w.+-]){re.escape(name)}(?![\w.+-])", message):
            where = recipe.origin("inference.engine.name")
            return f"{where} needs {name}: use another `base.release`, or leave `inference` out"
    return None


def _requests(packages: Iterable[Package]) -> tuple[Request, ...]:
    return tuple(Request(package.name) for package in packages)


def _same_request(previous: Lock, wanted: Wanted, recipe: Recipe) -> bool:
    """Whether ``previous`` still satisfies the recipe's requests."""
    return _same_packages(previous, wanted) and _same_firmware(previous, recipe)


def _same_firmware(lock: Lock, recipe: Recipe) -> bool:
    asked = {tee: str(request) for tee, request in firmware_packages(recipe).items()}
    return asked == {tee: each.requested for tee, each in lock.firmware.items()}


def _same_packages(previous: LockFile, wanted: Wanted) -> bool:
    suites = [(suite.archive, suite.name) for suite in wanted.suites]
    return (
        previous.base.record == wanted.base
        and previous.packages_requested == tuple(map(str, wanted.install))
        and [(archive.label, archive.suite) for archive in previous.archives] == suites
    )


def kernel_that_stays(
    kernel: Kernel, packages: Iterable[Package], pins: Mapping[str, str], store: Store
) -> tuple[str, ...]:
    """Requests that keep the locked kernel: its packages, if all are pinned and in the store."""
    held = [package for package in packages if kernel.is_kernel(package.name)]
    here = all(package.name in pins and store.has(package.sha256) for package in held)
    return kernel.chosen(package.name for package in held) if here else ()


def epoch_of(archives: Sequence[Archive]) -> int:
    """The newest Date among the archives, in seconds; used for all times in an image."""
    return max(int(parse_time(archive.date).timestamp()) for archive in archives)


def check_packages(recipe: Recipe, packages: Iterable[Package]) -> None:
    """Raise ``InputsError`` for a forbidden package in the guest, or a wrong version of the engine."""
    versions = {package.name: package.version for package in packages}
    if recipe.content.variant == PRODUCTION:
        found = sorted(versions.keys() & set(recipe.content.base.record.distribution.packages.forbidden))
        if found:
            raise InputsError(
                f"{recipe.name}: a production guest must not contain {', '.join(found)}",
                hint="a requested package depends on it; request only the parts you need",
            )
    _check_compression(recipe, versions)
    wanted = None if recipe.content.inference is None else recipe.content.inference.engine.version
    package = next(iter(engine_packages(recipe)), None)
    # That of an engine from wheels is compared with the recipe's requirement when the recipe is read.
    if wanted is None or package is None:
        return
    got = upstream_version(versions.get(package, ""))
    if got.split(".")[: len(wanted.split("."))] != wanted.split("."):
        raise InputsError(
            f"{recipe.origin('inference.engine.version')}: got {package} {versions.get(package, 'none')}, "
            f"expected version {wanted}",
            hint="request the version in the archive, or leave the field out",
        )


def _check_compression(recipe: Recipe, versions: Mapping[str, str]) -> None:
    """Raise ``InputsError`` if the kernel cannot read the root's compression; it would fail when a guest boots."""
    name = recipe.content.compression
    wanted = COMPRESSIONS[name].since
    version = recipe.content.base.record.distribution.kernel.version(versions.items())
    if version is not None and version < wanted:
        where = recipe.origin("root.compression")
        raise InputsError(
            f"root-compression: {where}: got `{name}` with Linux {version[0]}.{version[1]}, expected Linux "
            f"{wanted[0]}.{wanted[1]} or later, which can read it"
        )


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]
