"""``index.json``: the versions of one image and which of them count now. It is the image's only TUF target.

A version's serial counts up and is never used again. States: `current` and `superseded` (by a later version, still
acceptable) are accepted if the serial is not below ``minimum_serial``; `revoked` and `withdrawn` never are, and are
final. Contract: docs/ARCHITECTURE.md, "Published measurements".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, canonical, first_repeated, loads
from privml.statement.names import name_of, version_of

FORMAT = "privml-index/v1"
INDEX_FILE = "index.json"
MAX_INDEX = 1 << 20
MAX_VERSIONS = 4096
MAX_REASON = 400
_DATE = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")


class State(StrEnum):
    """What a version counts for now."""

    CURRENT = "current"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    WITHDRAWN = "withdrawn"

    @property
    def counts(self) -> bool:
        """True if a guest of this version may be accepted."""
        return self in (State.CURRENT, State.SUPERSEDED)


@dataclass(frozen=True)
class Entry:
    """One version: ``release_sha256`` (32 bytes) names its release, ``since`` is the day of its state.

    ``reason`` is a sentence for people, empty if there is none; a refused version has one. ``replaced_by`` is the
    version to use instead, or None.
    """

    version: str
    serial: int
    release_sha256: bytes
    state: State
    reason: str
    since: str
    replaced_by: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "version": self.version,
            "serial": self.serial,
            "release_sha256": self.release_sha256.hex(),
            "state": self.state.value,
            "reason": self.reason,
            "since": self.since,
            "replaced_by": self.replaced_by,
        }


@dataclass(frozen=True)
class Index:
    """The versions of image ``name``, by serial."""

    name: str
    minimum_serial: int
    versions: tuple[Entry, ...]

    def find(self, version: str) -> Entry | None:
        """The entry of a version; None if it is not listed."""
        return next((entry for entry in self.versions if entry.version == version), None)

    def counts(self, entry: Entry) -> bool:
        """True if a guest of this version may be accepted."""
        return entry.state.counts and entry.serial >= self.minimum_serial

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "name": self.name,
                "minimum_serial": self.minimum_serial,
                "versions": [entry.to_dict() for entry in self.versions],
            }
        )


def decode(data: bytes, what: str = "index") -> Index:
    """Read ``index.json``; ``EvidenceError`` if it is malformed, not canonical or contradicts itself."""
    fields = Fields(loads(data, what=what, limit=MAX_INDEX), what)
    fields.text("format", one_of=(FORMAT,))
    index = Index(
        name=name_of(fields),
        minimum_serial=fields.integer("minimum_serial", low=1),
        versions=tuple(
            _entry(Fields(item, f"{what}.versions[{number}]"))
            for number, item in enumerate(fields.array("versions", limit=MAX_VERSIONS))
        ),
    )
    fields.end()
    _check(index, what)
    if index.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON (RFC 8785)")
    return index


def _entry(fields: Fields) -> Entry:
    entry = Entry(
        version=version_of(fields),
        serial=fields.integer("serial", low=1),
        release_sha256=fields.hexadecimal("release_sha256", 32),
        state=State(fields.text("state", one_of=tuple(State))),
        reason=fields.text("reason", limit=MAX_REASON),
        since=fields.text("since", limit=10),
        replaced_by=fields.text_or_null("replaced_by", limit=63),
    )
    fields.end()
    if not _DATE.fullmatch(entry.since):
        raise EvidenceError(f"{fields.path}.since: got `{printable(entry.since)}`, expected a date like 2026-11-29")
    if not entry.state.counts and not entry.reason:
        raise EvidenceError(f"{fields.path}.reason: empty, expected why the version is {entry.state}")
    return entry


def _check(index: Index, what: str) -> None:
    if twice := first_repeated(entry.version for entry in index.versions):
        raise EvidenceError(f"{what}.versions: `{twice}` is listed twice")
    serials = [entry.serial for entry in index.versions]
    if serials != sorted(set(serials)):
        raise EvidenceError(f"{what}.versions: serials {serials[:8]}, expected each once and rising")
    if len({entry.release_sha256 for entry in index.versions}) != len(index.versions):
        raise EvidenceError(f"{what}.versions: two versions name one release")
    known = {entry.version: entry.serial for entry in index.versions}
    for number, entry in enumerate(index.versions):
        if entry.replaced_by is not None and known.get(entry.replaced_by, 0) <= entry.serial:
            got = printable(entry.replaced_by)
            raise EvidenceError(f"{what}.versions[{number}].replaced_by: got `{got}`, expected a later version")


def forbidden_changes(before: Index, after: Index) -> list[str]:
    """What no later index may do to an earlier one, one line each: serials and refusals are for ever."""
    found = []
    if after.name != before.name:
        found.append(f"name: got {after.name}, expected {before.name}")
    if after.minimum_serial < before.minimum_serial:
        found.append(f"minimum_serial: got {after.minimum_serial}, expected at least {before.minimum_serial}")
    highest = max((entry.serial for entry in before.versions), default=0)
    for old in before.versions:
        new = after.find(old.version)
        if new is None:
            found.append(f"{old.version}: gone, expected it to stay listed")
            continue
        if (new.serial, new.release_sha256) != (old.serial, old.release_sha256):
            found.append(f"{old.version}: another serial or release, expected those it was published with")
        if not old.state.counts and new.state.counts:
            found.append(f"{old.version}: got {new.state}, expected {old.state}, which is final")
    for new in after.versions:
        if before.find(new.version) is None and new.serial <= highest:
            found.append(f"{new.version}: serial {new.serial}, expected more than {highest}")
    return found
