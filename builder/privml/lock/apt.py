"""Resolve packages with apt in a temporary state, whose package lists it has checked by signature.

apt itself comes from the tools tree. To create the first tools tree, or one whose lock is lost, the host's apt with
the host's archive keyring is the declared starting point.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from privml.base.causes import HostCause
from privml.base.errors import HostError, InputsError
from privml.base.steps import say
from privml.lock.aptstate import KEPT, blamed, conclusion, preferences, repository, write_repository
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import AddedArchive, Archive
from privml.lock.debian import PackagesIndex, dependency_names, parse_inrelease
from privml.lock.lists import Accept, Lists, temporary
from privml.lock.models import Package
from privml.lock.offers import Offer, local_offer, offer_of
from privml.lock.states import judge
from privml.lock.wanted import Resolution, Wanted, check_places, in_order
from privml.recipe.distributions import Suite
from privml.store.mirrors import Mirrors

_PRINTED = re.compile(r"\A'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


def resolve(
    tools: AptTools,
    mirrors: Mirrors,
    wanted: Wanted,
    *,
    before: Sequence[Archive] = (),
    allow_expired: bool = False,
    now: datetime | None = None,
) -> Resolution:
    """Update the package lists (checking signatures), refuse old or expired ones, and resolve with apt.

    Pins are kept unless apt finds no solution; then those named in apt's error are released, with a message.
    """
    state = judging(wanted, before, allow_expired, now or datetime.now(UTC))
    with Session.opened(tools, mirrors, wanted, state) as session:
        archives, inreleases = session.archives, session.inreleases
        indexes = session.indexes()
        taken = frozenset(name for index in indexes for name in index.names())
        offers = [offer_of(tools, mirrors, each, wanted, taken, state) for each in wanted.archives]
        session.offer([*offers, *local_offer(wanted, taken)])
        requested = tuple(part for each in wanted.install for part in session.kernel_parts(each.name, indexes))
        packages = session.solve_keeping(requested, indexes)
        alone = tuple(session.candidate(each.name, indexes) for each in wanted.alone)
        check_places(wanted, (*packages, *alone))
        added: tuple[AddedArchive, ...] = tuple(offer.state for offer in offers if offer.state is not None)
        inreleases += tuple(offer.inrelease for offer in offers if offer.inrelease)
        return Resolution(archives, inreleases, requested, in_order(packages), alone, added)


def judging(wanted: Wanted, before: Sequence[Archive], allow_expired: bool, now: datetime) -> Accept:
    """Whether a signed state is acceptable for ``wanted`` at this moment, after the states ``before``."""

    def state(suite: Suite, inrelease: bytes) -> Archive:
        digest = hashlib.sha256(inrelease).hexdigest()
        origin = wanted.base.distribution.origin_of(suite)
        return judge(suite, parse_inrelease(inrelease), digest, before, allow_expired, now, origin)

    return state


class Session(Lists):
    """The lists of all suites that a request may use, and apt's solutions for it."""

    def __init__(self, tools: AptTools, folder: Path, wanted: Wanted) -> None:
        super().__init__(tools, folder, wanted.suites, tools.keyring)
        self._wanted = wanted
        self._kept = wanted.kept_of_the_base
        # Of kept and offered packages, by SHA-256.
        self._held = {kept.package.sha256: kept.package for kept in self._kept}

    @classmethod
    @contextmanager
    def opened(cls, tools: AptTools, mirrors: Mirrors, wanted: Wanted, accept: Accept) -> Iterator[Session]:
        """A state in a temporary directory, which is removed afterwards."""
        with temporary() as folder:
            session = cls(tools, folder, wanted)
            session.update(mirrors, accept)
            yield session

    def _own_sources(self) -> str:
        return write_repository(self._folder, KEPT, self._kept)

    def _preferences(self) -> str:
        return self._pinned(self._wanted.pins)

    def _pinned(self, pins: Mapping[str, str]) -> str:
        base = self._wanted.base.release.suites
        others = [suite.name for suite in self._wanted.suites if suite not in base]
        return preferences(pins, self._wanted.named, others, self._wanted.from_archives)

    def pin(self, pins: Mapping[str, str]) -> None:
        """Pin these versions."""
        (self._folder / "preferences").write_text(self._pinned(pins), encoding="utf-8")

    def offer(self, offers: Sequence[Offer]) -> None:
        """Add the packages of other archives, as repositories of our own: apt reads no list of theirs here."""
        lines = "".join(write_repository(self._folder, offer.label, offer.packages) for offer in offers)
        if not lines:
            return
        self._held = {each.package.sha256: each.package for offer in offers for each in offer.packages} | self._held
        apart = self._folder / "offers.list"
        apart.write_text(lines, encoding="utf-8")
        with (self._folder / "sources.list").open("a", encoding="utf-8") as sources:
            sources.write(lines)
        # Only these; the lists of the mirrors stay as they are.
        options = ("-o", f"Dir::Etc::sourcelist={apart}", "-o", "APT::Get::List-Cleanup=false")
        self._apt("update", "--error-on=any", "-qq", *options)

    def kernel_parts(self, name: str, indexes: Sequence[PackagesIndex]) -> list[str]:
        """Replace a kernel metapackage by the packages with its files; other names are unchanged."""
        kernel = self._wanted.base.distribution.kernel
        if not kernel.is_image(name):
            return [name]
        if self._wanted.kernel:
            return list(self._wanted.kernel)
        fields = self._candidate_fields(name, indexes)
        related = kernel.related(dependency_names(fields.get("Depends", "")))
        inner = kernel.chosen(related)
        if not inner:
            return [name]
        return self.kernel_parts(inner[0], indexes) if kernel.is_image(inner[0]) else sorted(inner)

    def solve(self, names: Sequence[str], indexes: Sequence[PackagesIndex]) -> list[Package]:
        """apt's solution for installing ``names`` into an empty system."""
        try:
            printed = self._apt("install", "--print-uris", "-y", "-q", "--no-install-recommends", *names)
        except HostCause:
            raise
        except HostError as error:
            raise InputsError(f"apt finds no solution for the requested packages\n{error.message}") from error
        return [self._found(uri, indexes) for uri in printed_uris(printed)]

    def solve_keeping(self, names: Sequence[str], indexes: Sequence[PackagesIndex]) -> list[Package]:
        """``solve``, releasing pins that prevent a solution until there is one."""
        pins = dict(self._wanted.pins)
        while True:
            try:
                return self.solve(names, indexes)
            except InputsError as error:
                forced = blamed(error.message, pins)
                if not forced:
                    raise InputsError(conclusion(error.message)) from error
                say("these packages must also change: " + ", ".join(forced))
                pins = {name: version for name, version in pins.items() if name not in forced}
                self.pin(pins)

    def candidate(self, name: str, indexes: Sequence[PackagesIndex]) -> Package:
        """The version of ``name`` that apt would choose, without dependencies."""
        return self._found(self._candidate_uri(name), indexes)

    def _candidate_fields(self, name: str, indexes: Sequence[PackagesIndex]) -> dict[str, str]:
        index, path = _locate(self._candidate_uri(name), indexes)[0]
        return index.fields(path)

    def _candidate_uri(self, name: str) -> str:
        try:
            uris = printed_uris(self._apt("download", "--print-uris", "-qq", name))
        except HostCause:
            raise
        except HostError as error:
            raise InputsError(f"no suite has the package `{name}`\n{error.message}") from error
        if len(uris) != 1:
            raise InputsError(f"`{name}`: apt names {len(uris)} files, expected one")
        return uris[0]

    def _found(self, uri: str, indexes: Sequence[PackagesIndex]) -> Package:
        if (digest := repository(self._folder, uri)) is not None:
            return self._held[digest]
        places = [index.package(path) for index, path in _locate(uri, indexes)]
        # Suites of one archive share files: prefer the required suite if it lists the file too.
        suite = self._wanted.suite_of(places[0].name)
        listed = next((package for package in places if package.suite == suite), places[0])
        # Keep the previous record, so that an unchanged package does not show up in a diff.
        same = (kept.package for kept in self._kept if kept.package.sha256 == listed.sha256)
        return next(same, listed)


def printed_uris(text: str) -> list[str]:
    """Parse the addresses in the output of ``--print-uris``."""
    return [match["uri"] for line in text.splitlines() if (match := _PRINTED.match(line))]


def _locate(uri: str, indexes: Sequence[PackagesIndex]) -> list[tuple[PackagesIndex, str]]:
    """The package lists with the file at an address, and its path in their archive."""
    found = []
    for index in indexes:
        if uri.startswith(index.base + "/"):
            path = urllib.parse.unquote(uri.removeprefix(index.base + "/"))
            if index.has(path):
                found.append((index, path))
    if not found:
        raise InputsError(f"apt names {uri}, which is not in any package list")
    return found
