"""Requests to apt, and their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from privml.base.errors import InputsError
from privml.lock.aptstate import Kept
from privml.lock.archiverecord import AddedArchive, Archive
from privml.lock.models import LOCAL, Package
from privml.recipe.distributions import Base, Suite
from privml.recipe.keyrings import Keyring
from privml.recipe.packages import Request


@dataclass(frozen=True)
class WantedArchive:
    """An archive besides the base's, as a recipe adds it; its label is that of ``suite``.

    ``stays`` is its previous state if all its packages stay; then it is not asked again.
    """

    suite: Suite
    keyring: Keyring
    pins: Mapping[str, str]
    inrelease_sha256: str | None = None
    stays: AddedArchive | None = None

    @property
    def label(self) -> str:
        """The label of the archive, in recipes, locks and mirrors.yaml."""
        return self.suite.archive


@dataclass(frozen=True)
class Wanted:
    """A request to resolve from a base's suites: ``install`` with all dependencies, ``alone`` without them.

    If a request names a suite, the package (or the whole kernel) comes only from that suite; if it names the label
    of one of ``archives``, from that archive. Everything else comes from the base's suites if they have it.
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
    archives: tuple[WantedArchive, ...] = ()

    @property
    def suites(self) -> tuple[Suite, ...]:
        """All suites that packages may come from, the base's first."""
        known = self.base.distribution.suites
        named = [known[suite] for _, suite in self._of_suites()]
        return tuple(dict.fromkeys((*self.base.release.suites, *named)))

    @property
    def named(self) -> dict[str, str]:
        """Package name or pattern -> the suite it must come from."""
        kernel = self.base.distribution.kernel
        return {f"{kernel.family}*" if kernel.is_image(name) else name: suite for name, suite in self._of_suites()}

    def _of_suites(self) -> list[tuple[str, str]]:
        """Name and suite of the requests that name one."""
        labels = {archive.label for archive in self.archives}
        requests = (*self.install, *self.alone)
        return [(each.name, each.suite) for each in requests if each.suite is not None and each.suite not in labels]

    @property
    def from_archives(self) -> dict[str, str]:
        """Package name -> the archive outside the base that it must come from; `LOCAL` for a file."""
        labels = {archive.label for archive in self.archives}
        local = {kept.package.name: LOCAL for kept in self.kept_of(LOCAL)}
        return local | {each.name: each.suite for each in self.install if each.suite in labels and each.suite}

    def kept_of(self, label: str) -> tuple[Kept, ...]:
        """The locked packages of an archive that may be chosen."""
        return tuple(kept for kept in self.kept if kept.package.archive == label)

    @property
    def kept_of_the_base(self) -> tuple[Kept, ...]:
        """The locked packages of all other archives that may be chosen."""
        outside = {LOCAL, *(archive.label for archive in self.archives)}
        return tuple(kept for kept in self.kept if kept.package.archive not in outside)

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
    added: tuple[AddedArchive, ...] = ()


def check_places(wanted: Wanted, packages: Sequence[Package]) -> None:
    """Raise ``InputsError`` if a package is not from its required suite or archive."""
    labels = {archive.label for archive in wanted.archives}
    plain = {each.name for each in wanted.install if each.suite is None}
    for package in packages:
        label = wanted.from_archives.get(package.name)
        if label is not None and package.archive != label:
            raise InputsError(
                f"`{package.name}` must come from the archive `{label}`, but apt chose that of {package.archive}",
                hint="another package needs that version; request a package that fits the base",
            )
        if package.archive in labels and package.name in plain:
            raise InputsError(
                f"the base's archives have no package `{package.name}`, only `{package.archive}` has it",
                hint=f"write `{package.name}/{package.archive}` to take it from there",
            )
        suite = wanted.suite_of(package.name)
        if suite is not None and package.suite != suite:
            raise InputsError(
                f"`{package.name}` must come from {suite}, but only {package.suite} has it",
                hint="name a package in the suite, or leave `suite` out",
            )


def unused_pins(archives: Iterable[WantedArchive], packages: Iterable[Package]) -> None:
    """Raise ``InputsError`` if a pin is of a package that is not in the guest."""
    there = {(package.archive, package.name) for package in packages}
    for archive in archives:
        for name in archive.pins:
            if (archive.label, name) not in there:
                raise InputsError(
                    f"archives.{archive.label}.pins.{name}: no package `{name}` of this archive is in the guest",
                    hint=f"name it in `packages` as {name}/{archive.label}, or leave the pin out",
                )


def in_order(packages: Sequence[Package]) -> tuple[Package, ...]:
    """The names as written in locks."""
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))
