"""The input files named by locks: their digests, and how to fetch them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from privml.lock.changes import states_of
from privml.lock.make import bring
from privml.lock.modelrecord import Volume
from privml.lock.models import Lock, Package, ToolsLock, VendorFile, Wheel
from privml.store.mirrors import Mirrors, host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool


def debs(lock: Lock | ToolsLock) -> tuple[Package | VendorFile, ...]:
    """Every .deb that a lock names, and the vendor's files of a driver."""
    return (*lock.debs, *lock.driver_files, *lock.compiler_debs) if isinstance(lock, Lock) else lock.packages


def digests(locks: Iterable[Lock | ToolsLock]) -> set[str]:
    """The SHA-256 of every package, wheel, and file of models and data named by the locks."""
    found: set[str] = set()
    for lock in locks:
        found |= {package.sha256 for package in debs(lock)}
        if isinstance(lock, Lock):
            found |= {wheel.sha256 for wheel in lock.wheels} | {file.sha256 for file in lock.volume_objects}
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


def bring_all(
    store: Store,
    locks: Iterable[Lock | ToolsLock],
    pools: Sequence[Pool] = (),
    folder: Path | None = None,
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> int:
    """Fetch all locked inputs missing from the store; returns the number of bytes fetched.

    ``folder`` is that of the recipe, whose models and data may be next to it.

    ``GoneError`` names every package of any lock that no source has any more.
    """
    packages: list[Package | VendorFile] = []
    wheels: list[Wheel] = []
    volumes: list[Volume] = []
    for lock in locks:
        packages += debs(lock)
        if isinstance(lock, Lock):
            wheels += lock.wheels
            volumes += lock.volumes
    return bring(store, packages, wheels, volumes, folder=folder, pools=pools, mirrors=mirrors)
