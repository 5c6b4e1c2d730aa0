"""The gate for changes of a repository: every signature, digest and state, and what a change may not do.

A client reads the way from the root to one version. This reads everything in the folder, so that nothing damaged,
unsigned or left over is merged. With the folder as it was ``before``, the change must also be one that a client with
that memory takes, and leave what was published as it was. Versions are compared with what they recorded, never with
the checkout.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from privml.base import dsse
from privml.base.errors import EvidenceError, PrivmlError, Refused
from privml.base.times import time_text
from privml.image.published import documents
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.output.repository import Held, fetch_from
from privml.publish import log as logs
from privml.publish.repository import DAY, ROOT_FILE
from privml.statement import attestation, follow, rebuild
from privml.statement import index as indexes
from privml.statement.follow import FOLDER, Version, metadata_path
from privml.statement.image import Image
from privml.statement.index import INDEX_FILE, MAX_INDEX, Entry
from privml.statement.logentry import FOLDER as LOG
from privml.statement.metadata import MAX_METADATA, ROOT
from privml.statement.names import DEMONSTRATION
from privml.statement.rebuilders import FOLDER as ENDORSEMENTS
from privml.statement.release import CI_FILE, ENVELOPES, PROOF_FILE
from privml.statement.tlog import Checkpoint
from privml.statement.update import Memory, Update

CURRENT = "current.json"
# A record of what a driver was compiled to (`image.driverrecord`): what a build is compared with, and not published.
_DRIVER = re.compile(r"drivers/[0-9a-f]{64}\.json")
"""The record of `repro --record`, which nobody relies on."""
WARN_DAYS = 14


@dataclass
class Findings:
    """What is ``wrong`` and what will be ``soon``, one line each; how much was read; and if it is a demonstration."""

    wrong: list[str] = field(default_factory=list)
    soon: list[str] = field(default_factory=list)
    versions: int = 0
    files: int = 0
    demonstration: bool = False


@dataclass(frozen=True)
class Checked:
    """A repository in which nothing is wrong: its images, and manifest and lock of each version that counts."""

    held: Held
    inputs: Mapping[tuple[str, str], tuple[Manifest, Lock]]


def check(folder: Path, now: int, before: Path | None = None) -> Findings:
    """Check the repository in ``folder`` at ``now`` (Unix seconds); ``before`` is the same folder as it was."""
    gate = _Gate(folder, now, before)
    gate.run()
    return gate.found


def read(folder: Path) -> Checked:
    """Read the repository in ``folder``; ``Refused`` if anything in it is not as it was signed.

    Whether it is still valid is for the reader to say.
    """
    gate = _Gate(folder, 0, None)
    update = gate.run()
    if gate.found.wrong or update is None:
        more = f", and {len(gate.found.wrong) - 1} more" if len(gate.found.wrong) > 1 else ""
        raise Refused(
            f"{folder}: {gate.found.wrong[0]}{more}", hint=f"`privml-build publish check {folder}` lists everything"
        )
    return Checked(Held(gate.first, update, tuple(gate.images)), gate.inputs)


class _Gate:
    def __init__(self, folder: Path, now: int, before: Path | None) -> None:
        self.folder = folder
        self.now = now
        self.before = before
        self.found = Findings()
        self._fetch = fetch_from(folder)
        self._known: set[str] = set()
        self._tools_locks: dict[bytes, str] = {}
        self.first = ""
        self.images: list[Image] = []
        self.inputs: dict[tuple[str, str], tuple[Manifest, Lock]] = {}

    def run(self) -> Update | None:
        update = self._roots()
        if update is None:
            return None
        self.found.demonstration = update.demonstration
        for role, end in update.expiries.items():
            self._expiry(role, end)
        for name in sorted(update.published):
            self._said(name, self._image, update, name)
        self._history(update)
        self._said(LOG, self._log)
        self._leftovers()
        return update

    def fetch(self, path: str, limit: int) -> bytes | None:
        """Fetch, and remember that the file has a place."""
        self._known.add(path)
        data = self._fetch(path, limit)
        self.found.files += data is not None
        return data

    def _read(self, path: str) -> bytes | None:
        return self._fetch(path, follow.MAX_ENVELOPE)

    def _said(self, place: str, work: Callable[..., None], *words: object) -> None:
        """Run a check; what it raises is a finding."""
        try:
            work(*words)
        except PrivmlError as error:
            self.found.wrong.append(error.message if error.message.startswith(place) else f"{place}: {error.message}")

    def _roots(self) -> Update | None:
        first = self.fetch(metadata_path(ROOT, 1), MAX_METADATA)
        if first is None:
            raise EvidenceError(f"{self.folder} has no {metadata_path(ROOT, 1)}: not a repository")
        self.first = hashlib.sha256(first).hexdigest()
        memory = Memory()
        if self.before is not None and (self.before / metadata_path(ROOT, 1)).is_file():
            old = fetch_from(self.before)
            begun = old(metadata_path(ROOT, 1), MAX_METADATA)
            assert begun is not None
            memory = follow.follow(old, begun, Memory()).memory
        try:
            update = follow.follow(self.fetch, first, memory)
        except PrivmlError as error:
            self.found.wrong.append(f"{FOLDER}: {error.message}")
            return None
        newest = metadata_path(ROOT, update.next_root - 1)
        if self.fetch(ROOT_FILE, MAX_METADATA) != self._read(newest):
            self.found.wrong.append(f"{ROOT_FILE}: not a copy of {newest}")
        return update

    def _expiry(self, role: str, end: int) -> None:
        if end <= self.now:
            self.found.wrong.append(f"{role}: valid until {time_text(end)}, expected longer")
        elif end < self.now + WARN_DAYS * DAY:
            self.found.soon.append(f"{role}: valid until {time_text(end)} only; sign it again")

    def _image(self, update: Update, name: str) -> None:
        index = follow.index_of(update, self.fetch, name)
        self._expiry(name, update.expiries[name])
        role = update.publishers(name)
        image = Image(index, role)
        self.images.append(image)
        for entry in index.versions:
            self.found.versions += 1
            # Publishers who were replaced signed what does not count any more; it stays as it was.
            if index.counts(entry):
                self._said(f"{name}/{entry.version}", self._version, image, entry)
            else:
                self._keep(f"{name}/{entry.version}/")
                image.read(self._fetch, entry)

    def _keep(self, folder: str) -> None:
        self._known |= {path for path in self._all if path.startswith(folder)}

    def _version(self, image: Image, entry: Entry) -> None:
        version = image.read(self.fetch, entry)
        assert version is not None  # it counts
        found = documents(self.fetch, version, image.publishers)
        self.inputs[version.release.name, version.release.version] = found.manifest, found.lock
        self._said(f"{version.folder}/{CI_FILE}", self._attestation, f"{version.folder}/{CI_FILE}", version)
        for path in sorted(self._all):
            if path.startswith(f"{version.folder}/{ENDORSEMENTS}/"):
                self._said(path, self._endorsement, path, version)

    def _attestation(self, path: str, version: Version) -> None:
        """Check what CI attested, if it is there, but for its signature: that is for callers with `--ci`."""
        data = self.fetch(path, attestation.MAX_BUNDLE)
        if data is not None:
            attestation.check(attestation.payload_of(data, path), version.statement, path)

    def _endorsement(self, path: str, version: Version) -> None:
        data = self.fetch(path, follow.MAX_ENVELOPE)
        assert data is not None
        found = rebuild.decode(dsse.decode(data, what=path).payload, path)
        release = version.release
        if (found.name, found.version, found.statement_sha256) != (
            release.name, release.version, release.statement_sha256
        ):  # fmt: skip
            raise EvidenceError(f"{path}: endorses another version")

    def _history(self, update: Update) -> None:
        """Compare with the folder as it was: what was published stays as it is."""
        if self.before is None:
            return
        old = fetch_from(self.before)
        for name in update.images:
            data, now = old(f"{name}/{INDEX_FILE}", MAX_INDEX), self._read(f"{name}/{INDEX_FILE}")
            if data is not None and now is not None:
                self._said(name, self._index, data, now)
        for path in sorted(path for path in _files(self.before) if _is_kept(path)):
            if self._read(path) != old(path, follow.MAX_ENVELOPE):
                self.found.wrong.append(f"{path}: changed or gone, expected it as it was published")

    def _log(self) -> None:
        """Check the log, if there is one; with the folder as it was, that it continues the log of then."""
        self._keep(f"{LOG}/")
        old = None if self.before is None else logs.read(self.before)
        try:
            found = logs.read(self.folder, None if old is None else old.key)
        except PrivmlError:
            self._known |= {
                path for path in self._all if path.endswith(f"/{PROOF_FILE}")
            }  # nothing to check them with
            raise
        if found is None:
            if old is not None:
                raise EvidenceError("gone, expected the log to continue")
            return
        since = None if old is None else Checkpoint.read(old.checkpoint, old.key)
        audited = logs.audit(self.folder, found, since)
        self.found.wrong += audited.wrong
        self.found.soon += audited.unlogged
        self._known |= audited.known

    def _index(self, old: bytes, new: bytes) -> None:
        before, after = indexes.decode(old), indexes.decode(new)
        self.found.wrong += [f"{after.name}: {line}" for line in indexes.forbidden_changes(before, after)]

    def _leftovers(self) -> None:
        for path in sorted(self._all - self._known):
            named = path.split("/")
            if path.startswith(f"{FOLDER}/") and _is_kept(path):
                continue
            if (len(named) == 2 and named[1] == CURRENT) or _DRIVER.fullmatch(path):
                continue
            self.found.wrong.append(f"{path}: nothing names it")

    @cached_property
    def _all(self) -> frozenset[str]:
        return frozenset(_files(self.folder))


def _files(folder: Path) -> list[str]:
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    # A demonstration next to the images is a repository of its own, with its own check.
    apart = f"{DEMONSTRATION}/"
    if f"{apart}{metadata_path(ROOT, 1)}" not in found:
        return found
    return [path for path in found if not path.startswith(apart)]


def _is_kept(path: str) -> bool:
    """True for a file that never changes: versioned metadata, and what a version's release and index name."""
    parts = path.split("/")
    if parts[0] == FOLDER:
        return len(parts) == 2 and parts[1].split(".")[0].isdigit() and parts[1].endswith(".json")
    return len(parts) > 2 and parts[-1] not in (*ENVELOPES, PROOF_FILE, CI_FILE) and parts[2] != ENDORSEMENTS
