"""Collateral that this user has fetched: entries that an anchor vouches for, and the cache that keeps them.

The cache is a folder with one file for each kind of platform. Only collateral that the anchor's certificates signed
is stored, and every file is checked again when it is read, so the folder needs no trust. A file is due to be
fetched again when it is a day old, and when a part is about to expire.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError
from privml.base.files import write_atomic
from privml.base.home import user_folder
from privml.base.strictjson import Fields, loads, pretty
from privml.client import pcs
from privml.evidence.tdx import chain, contents, signature
from privml.evidence.tdx import collateral as fields_of
from privml.evidence.tdx.claims import TEE
from privml.evidence.tdx.contents import Contents
from privml.evidence.tdx.platform import Platform, platform_of

log = logging.getLogger("privml")

FORMAT = "privml-collateral/v1"
HOUR = 3600
DAY = 24 * HOUR
_MAX_FILE = 16 * 1024 * 1024
_MAX_FILES = 1000

Clock = Callable[[], float]


@dataclass(frozen=True)
class Anchor:
    """A root certificate (DER) and how its authority names its certificates."""

    root: bytes
    naming: chain.Naming

    @property
    def simulated(self) -> bool:
        """True if it vouches for no hardware."""
        return self.root != signature.INTEL_ROOT_DER


INTEL = Anchor(signature.INTEL_ROOT_DER, chain.INTEL)


def anchors(simulated_root: bytes | None = None) -> tuple[Anchor, ...]:
    """Intel's anchor, and that of a simulation if its root (DER) is given."""
    return (INTEL,) if simulated_root is None else (INTEL, Anchor(simulated_root, chain.SIMULATION))


@dataclass(frozen=True)
class Entry:
    """Collateral that an anchor vouches for: its nine fields, what they say, when and from where it was fetched.

    ``fetched`` is None for a file with the fields alone.
    """

    fields: Mapping[str, str]
    contents: Contents
    fetched: int | None
    source: str

    @property
    def platform(self) -> Platform:
        """The kind of platform that it is for."""
        return self.contents.platform

    def check(self, platform: Platform, now: int) -> None:
        """Raise ``Refused`` if it is for another platform, or not valid at ``now``."""
        if self.platform != platform:
            raise Refused(f"collateral-platform: got {self.platform}, expected {platform}")
        self.contents.check_time(now)

    def expired(self, now: int) -> bool:
        """True if a part is not valid at ``now``."""
        try:
            self.contents.check_time(now)
        except Refused:
            return True
        return False

    def due(self, now: int) -> bool:
        """True if it should be fetched again: it is a day old, or a quarter of a part's life is left."""
        age = now - (self.fetched or 0)
        first = self.contents.expires_first
        soon = first.expires - now < max(DAY, (first.expires - first.issued) // 4)
        return age < 0 or age >= DAY or (soon and age >= HOUR)

    def to_dict(self, now: int) -> dict[str, object]:
        """Everything but the fields themselves, for `--json`."""
        return {
            "tee": TEE,
            "fmspc": self.platform.fmspc,
            "ca": self.platform.ca,
            "evaluation_number": self.contents.evaluation_number,
            "fetched": self.fetched,
            "source": self.source,
            "expires": self.contents.expires_first.expires,
            "expired": self.expired(now),
            "parts": [dataclasses.asdict(part) for part in self.contents.parts],
        }


def judged(fields: Mapping[str, str], among: tuple[Anchor, ...], *, fetched: int | None, source: str) -> Entry:
    """The entry for nine fields that one of the anchors vouches for; otherwise the error of the first anchor."""
    failure: PrivmlError | None = None
    for anchor in among:
        try:
            return Entry(fields, contents.read(fields, root=anchor.root, naming=anchor.naming), fetched, source)
        except PrivmlError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def read_file(path: Path, among: tuple[Anchor, ...]) -> Entry:
    """The collateral in a file, which is a cache's or has the nine fields alone.

    ``EvidenceError`` if it is neither, ``Refused`` if no anchor vouches for it; both name the file.
    """
    try:
        with path.open("rb") as file:
            value = loads(file.read(_MAX_FILE + 1), what="JSON", limit=_MAX_FILE)
        fetched, source = None, str(path)
        if isinstance(value, dict) and "format" in value:
            found = Fields(value, "collateral")
            found.text("format", one_of=(FORMAT,))
            fetched, source = found.integer("fetched"), found.text("source")
            inner = found.fields("collateral")
            value = inner.take(TEE)
            inner.end()
            found.end()
        return judged(fields_of.decode(value), among, fetched=fetched, source=source)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror or error}") from error
    except (EvidenceError, Refused) as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def read_directory(
    path: Path, among: tuple[Anchor, ...], without: Collection[Path] = ()
) -> tuple[list[Entry], list[PrivmlError]]:
    """The collateral in the ``.json`` files of a directory, but ``without``, and the errors of those with none."""
    entries, errors = [], []
    for file in sorted(set(path.glob("*.json")) - set(without))[:_MAX_FILES]:
        try:
            entries.append(read_file(file, among))
        except PrivmlError as error:
            errors.append(error)
    return entries, errors


def cache_directory() -> Path:
    """``privml-build/collateral`` in the user's XDG cache."""
    base = user_folder("XDG_CACHE_HOME", ".cache")
    return base / "privml-build" / "collateral"


def content(path: Path, limit: int) -> bytes | None:
    """The content of a file of the cache; None if it cannot be read or is larger than ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache; a warning if that cannot be done."""
    try:
        write_atomic(path, data)
    except OSError as error:
        log.warning("the collateral cache %s cannot be written: %s", path.parent, error.strerror or error)


class Cache:
    """The files of `cache_directory`, or of another directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory()

    def find(self, platform: Platform, anchor: Anchor) -> Entry | None:
        """What is cached for ``platform``; None if there is nothing, or nothing that ``anchor`` vouches for."""
        path = self._path(platform)
        try:
            found = read_file(path, (anchor,))
        except UsageError:
            return None
        except PrivmlError as error:
            log.warning("ignoring cached collateral: %s", error.message)
            return None
        return found if found.platform == platform else None

    def entries(self, among: tuple[Anchor, ...]) -> Iterator[Entry]:
        """Everything that is cached and that an anchor vouches for."""
        found, errors = read_directory(self.directory, among)
        for error in errors:
            log.warning("ignoring cached collateral: %s", error.message)
        yield from found

    def newest(self, entry: Entry, anchor: Anchor, *, now: int) -> Entry:
        """``entry``, or what is cached if that is newer: a service may be behind, or hide a later finding."""
        old = self.find(entry.platform, anchor)
        if old is None or old.expired(now) or not entry.contents.older_than(old.contents):
            return entry
        log.warning(
            "%s sent older collateral of %s than is cached; the cached one stays", entry.source, entry.platform
        )
        return dataclasses.replace(old, fetched=entry.fetched)

    def put(self, entry: Entry) -> None:
        """Store ``entry``; ``HostError`` if the folder cannot be written."""
        record = {
            "format": FORMAT,
            "fetched": entry.fetched,
            "source": entry.source,
            "collateral": {TEE: dict(entry.fields)},
        }
        try:
            write_atomic(self._path(entry.platform), pretty(record))
        except OSError as error:
            raise HostError(
                f"the collateral cache {self.directory} cannot be written: {error.strerror or error}",
                hint="set XDG_CACHE_HOME to a folder that you may write",
            ) from error

    def _path(self, platform: Platform) -> Path:
        return self.directory / f"{TEE}-{platform.fmspc}-{platform.ca}.json"


def fetch(
    where: pcs.Service,
    platform: Platform,
    anchor: Anchor,
    *,
    now: int,
    update: str = pcs.UPDATES[0],
    timeout: float = pcs.TIMEOUT,
) -> Entry:
    """Fetch the collateral of ``platform`` and check it.

    ``HostError`` if the service has none, ``EvidenceError`` if it sends something malformed, ``Refused`` if that is
    not signed below ``anchor``, not valid now, or of another platform.
    """
    fields = pcs.fetch(where, platform, root=anchor.root, update=update, timeout=timeout)
    try:
        found = judged(fields, (anchor,), fetched=now, source=where.base)
        found.check(platform, now)
    except (EvidenceError, Refused) as error:
        raise type(error)(f"{where.name}: {error.message}", hint=error.hint) from error
    return found


def locate(quote: bytes, among: tuple[Anchor, ...]) -> tuple[Platform, Anchor]:
    """The platform that a quote's certificates name, and their anchor.

    ``EvidenceError`` for a malformed quote, ``Refused`` if its certificates lead to none of the anchors.
    """
    failure: chain.ChainError | None = None
    for anchor in among:
        try:
            return platform_of(quote, root=anchor.root, naming=anchor.naming), anchor
        except chain.ChainError as error:
            failure = failure or error
    assert failure is not None
    raise Refused(f"{failure.code}: {failure.found}, expected {failure.expected}") from failure
