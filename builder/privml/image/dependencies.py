"""Which packages of an image depend on which, from the control files of the locked .debs."""

from __future__ import annotations

from collections.abc import Mapping

from privml.lock import deb
from privml.lock.debian import dependencies, fields_of
from privml.lock.models import Lock
from privml.store.objects import Store


def of_guest(lock: Lock, store: Store) -> Mapping[str, tuple[str, ...]]:
    """Package -> the packages that it depends on, for the packages of the guest."""
    stanzas = (deb.control(store.read(each.sha256, verify=False), str(each)) for each in lock.packages)
    return dependencies(map(fields_of, stanzas))
