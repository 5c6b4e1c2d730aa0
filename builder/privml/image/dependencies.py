"""Which packages of an image depend on which, from the control files of the locked .debs and the wheels' metadata."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from privml.lock import deb, wheelfile
from privml.lock.debian import dependencies, fields_of
from privml.lock.models import Lock
from privml.store.objects import Store


def of_guest(lock: Lock, store: Store) -> Mapping[str, tuple[str, ...]]:
    """Package -> the packages that it depends on, for the packages of the guest."""
    stanzas = (deb.control(store.read(each.sha256, verify=False), str(each)) for each in lock.packages)
    return dependencies(map(fields_of, stanzas))


def of_wheels(lock: Lock, store: Store) -> Mapping[str, tuple[str, ...]]:
    """Wheel -> the wheels that it requires in the guest, with the extras that the recipe and other wheels ask for."""
    if lock.requirements is None:
        return {}
    environment = _markers(lock.requirements.python)
    contents = {each.name: wheelfile.read(store.path(each.sha256), each) for each in lock.imported}
    extras: dict[str, set[str]] = {name: set() for name in contents}
    for line in map(Requirement, lock.requirements.requested):
        extras[canonicalize_name(line.name)] |= line.extras
    while True:
        before = {name: set(asked) for name, asked in extras.items()}
        found: dict[str, set[str]] = {name: set() for name in contents}
        for name, content in contents.items():
            for requirement in wheelfile.requirements_of(content, environment, extras[name]):
                other = canonicalize_name(requirement.name)
                if other in contents and other != name:
                    found[name].add(other)
                    extras[other] |= requirement.extras
        if extras == before:
            return {name: tuple(sorted(others)) for name, others in found.items()}


def _markers(python: str) -> dict[str, str]:
    """The environment markers of a guest with this version of Python."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
