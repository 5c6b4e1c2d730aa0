"""Requests to apt, and their results."""

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
    """A request to resolve from a base's suites: ``install`` with all dependencies, ``alone`` without them.

    If a request names a suite, the package (or the whole kernel) comes only from that suite. Everything else comes
    from the base's suites if they have it.
    """

    base: Base
    install: tuple[Request, ...]
    alone: tuple[Request, ...] = ()
    # Versions to keep if the archive still has them, by package name.
    pins: Mapping[str, str] = field(default_factory=dict)
    # Locked packages that may be chosen even if no archive lists them.
    kept: tuple[Kept, ...] = ()
    # The kernel's packages if they are kept: the metapackage would select the newest ones.
    kernel: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[Suite, ...]:
        """All suites that packages may come from, the base's first."""
        known = self.base.distribution.suites
        named = [known[each.suite] for each in (*self.install, *self.alone) if each.suite is not None]
        return tuple(dict.fromkeys((*self.base.release.suites, *named)))

    @property
    def named(self) -> dict[str, str]:
        """Package name or pattern -> the suite it must come from."""
        kernel = self.base.distribution.kernel
        return {
            f"{kernel.family}*" if kernel.is_image(each.name) else each.name: each.suite
            for each in (*self.install, *self.alone)
            if each.suite is not None
        }

    def suite_of(self, package: str) -> str | None:
        """The suite that ``package`` must come from; None if the base's suites are acceptable."""
        return next((suite for pattern, suite in self.named.items() if fnmatchcase(package, pattern)), None)


@dataclass(frozen=True)
class Resolution:
    """The packages chosen by apt and the signed states of the archives; ``alone`` in the order of the requests."""

    archives: tuple[Archive, ...]
    inreleases: tuple[bytes, ...]
    requested: tuple[str, ...]
    packages: tuple[Package, ...]
    alone: tuple[Package, ...]


def check_suites(wanted: Wanted, packages: Iterable[Package]) -> None:
    """Raise ``InputsError`` if a package is not from its required suite."""
    for package in packages:
        suite = wanted.suite_of(package.name)
        if suite is not None and package.suite != suite:
            raise InputsError(
                f"`{package.name}` must come from {suite}, but only {package.suite} has it",
                hint="name a package in the suite, or leave `suite` out",
            )


def in_order(packages: Sequence[Package]) -> tuple[Package, ...]:
    """The names as written in locks."""
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))
