"""What apt is asked for, and what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from privml.base.errors import InputsError
from privml.lock.aptstate import Kept
from privml.lock.models import Archive, Package
from privml.recipe.distributions import Base, Suite
from privml.recipe.packages import Request


@dataclass(frozen=True)
class Wanted:
    """What to resolve from a base's suites: ``install`` with all dependencies, ``alone`` without them.

    What a request names a suite for comes from that suite only: the package, or all of the kernel. Everything else
    comes from the base's suites wherever they have it.
    """

    base: Base
    install: tuple[Request, ...]
    alone: tuple[Request, ...] = ()
    # Old versions to keep where the archive still has them, by package name.
    pins: Mapping[str, str] = field(default_factory=dict)
    # Locked packages that may be chosen whether or not an archive still lists them.
    kept: tuple[Kept, ...] = ()
    # The kernel's packages when they stay: the metapackage would lead to the newest ones.
    kernel: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[Suite, ...]:
        """Every suite that packages may come from, the base's first."""
        known = self.base.distribution.suites
        named = [known[each.suite] for each in (*self.install, *self.alone) if each.suite is not None]
        return tuple(dict.fromkeys((*self.base.release.suites, *named)))

    @property
    def named(self) -> dict[str, str]:
        """The suite that packages must come from, by name or by pattern of names."""
        kernel = self.base.distribution.kernel
        return {
            f"{kernel.family}*" if kernel.is_image(each.name) else each.name: each.suite
            for each in (*self.install, *self.alone)
            if each.suite is not None
        }

    def suite_of(self, package: str) -> str | None:
        """The suite that ``package`` must come from; None where the base's will do."""
        return next((suite for pattern, suite in self.named.items() if fnmatchcase(package, pattern)), None)


@dataclass(frozen=True)
class Resolution:
    """What apt chose, and from which signed states of the archives; ``alone`` in the order of the requests."""

    archives: tuple[Archive, ...]
    inreleases: tuple[bytes, ...]
    requested: tuple[str, ...]
    packages: tuple[Package, ...]
    alone: tuple[Package, ...]


def check_suites(wanted: Wanted, packages: Iterable[Package]) -> None:
    """``InputsError`` when a package is not from the suite that it must come from."""
    for package in packages:
        suite = wanted.suite_of(package.name)
        if suite is not None and package.suite != suite:
            raise InputsError(
                f"`{package.name}` is to come from {suite}, but only {package.suite} has it",
                hint="name a package that the suite has, or leave `suite` out",
            )


def in_order(packages: Sequence[Package]) -> tuple[Package, ...]:
    """As locks hold them."""
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))
