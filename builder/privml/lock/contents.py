"""The input files named by locks: their digests, and how to fetch them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from privml.lock.changes import states_of
from privml.lock.make import bring
from privml.lock.modelrecord import Model
from privml.lock.models import Lock, Package, ToolsLock, VendorFile, Wheel
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.loader import platforms_in
from privml.recipe.platform import PlatformFile
from privml.store.fetch import Item, fetch
from privml.store.mirrors import Mirrors, host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool


def debs(lock: Lock | ToolsLock) -> tuple[Package | VendorFile, ...]:
    """Every .deb that a lock names, and the vendor's files of a driver."""
    return (*lock.debs, *lock.driver_files, *lock.compiler_debs) if isinstance(lock, Lock) else lock.packages


def digests(locks: Iterable[Lock | ToolsLock]) -> set[str]:
    """The SHA-256 of every package, wheel and model file named by the locks."""
    found: set[str] = set()
    for lock in locks:
        found |= {package.sha256 for package in debs(lock)}
        if isinstance(lock, Lock):
            found |= {wheel.sha256 for wheel in lock.wheels} | {file.sha256 for file in lock.model_objects}
    return found


def kept(locks: Iterable[Lock | ToolsLock], store: Store) -> set[str]:
    """``digests``, plus the signed archive states in the store."""
    locks = list(locks)
    states = {state.inrelease_sha256 for lock in locks for state in states_of(lock)}
    states |= {
        state.inrelease_sha256
        for lock in locks
        if isinstance(lock, Lock)
        for each in (lock.driver, lock.compiled)
        if each is not None
        for state in each.archives
    }
    return digests(locks) | {state for state in states if store.has(state)}


def tables_of(platforms: Iterable[PlatformFile | GcePlatformFile]) -> list[Item]:
    """The tables of learnt platforms, which only stores and pools have."""
    return [
        Item(one.tables.sha256, one.tables.size, f"the tables of platform {one.name}", (), _NOWHERE)
        for one in platforms
        if one.tables is not None
    ]


def bring_tables(
    store: Store, platforms: Iterable[PlatformFile | GcePlatformFile], pools: Sequence[Pool] = ()
) -> None:
    """Fetch the tables of learnt platforms that are missing from the store; ``InputsError`` if no pool has them."""
    missing = [item for item in tables_of(platforms) if not store.has(item.sha256)]
    if missing:
        fetch(store, missing, pools=pools)


def known_tables(folders: Iterable[Path]) -> set[str]:
    """The SHA-256 of the tables of every platform file in these folders; files that cannot be read have none."""
    return {item.sha256 for folder in folders for item in tables_of(platforms_in(folder))}


_NOWHERE = "give the pool that has them, or learn the platform again with its QEMU"


def bring_all(
    store: Store,
    locks: Iterable[Lock | ToolsLock],
    pools: Sequence[Pool] = (),
    folder: Path | None = None,
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Fetch all locked inputs missing from the store; returns the number of bytes fetched.

    ``folder`` is that of the recipe, whose models may be next to it.

    ``GoneError`` names every package of any lock that no source has any more.
    """
    packages: list[Package | VendorFile] = []
    wheels: list[Wheel] = []
    models: list[Model] = []
    for lock in locks:
        packages += debs(lock)
        if isinstance(lock, Lock):
            wheels += lock.wheels
            models += lock.models
    return bring(store, packages, wheels, models, folder=folder, pools=pools, mirrors=mirrors)
