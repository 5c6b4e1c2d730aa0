"""Changes of a repository of published measurements. Each is made whole in memory, then followed as a caller would.

What is there is followed from its first root before anything is signed, so that nobody's key vouches for a file that
was altered since. A change that a client would not take is a bug, and nothing of it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused, UsageError
from privml.base.files import write_atomic
from privml.base.times import time_text
from privml.output.memory import Memories
from privml.output.repository import fetch_from
from privml.publish import repository, version
from privml.publish.repository import DAY, DAYS, Edit, Repository
from privml.publish.roles import Roles
from privml.publish.signing import Signing
from privml.publish.version import Build
from privml.statement import follow
from privml.statement import index as indexes
from privml.statement.follow import metadata_path
from privml.statement.index import Entry, Index, State
from privml.statement.keys import Role
from privml.statement.metadata import MAX_METADATA, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from privml.statement.names import is_published
from privml.statement.release import PROVENANCE_FILE, STATEMENT_FILE
from privml.statement.update import Memory

Files = dict[str, bytes]
"""What to write, by path below the repository, in this order."""


@dataclass(frozen=True)
class Verified:
    """What a repository holds: a client's memory of it, the index of each image, and the newest metadata."""

    memory: Memory
    indexes: Mapping[str, Index]
    repository: Repository


@dataclass
class Place:
    """A repository in ``folder``, to be changed with the keys of ``signing`` at ``now`` (Unix seconds).

    ``memories`` are this user's: nobody signs on top of an older copy than one seen before, which would take back
    what was revoked since.
    """

    folder: Path
    signing: Signing
    now: int
    memories: Memories | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def _verified(self) -> Verified | None:
        fetch = fetch_from(self.folder)
        first = fetch(metadata_path(ROOT, 1), MAX_METADATA)
        if first is None:
            return None
        update = follow.follow(fetch, first, self._seen(first))
        found = {name: follow.index_of(update, fetch, name) for name in update.published}
        repository_ = repository.read(fetch)
        assert repository_ is not None
        self._remember(first, update.memory)
        return Verified(update.memory, found, repository_)

    def _seen(self, first: bytes) -> Memory:
        return Memory() if self.memories is None else self.memories.read(hashlib.sha256(first).hexdigest())

    def _remember(self, first: bytes, memory: Memory) -> None:
        if self.memories is not None:
            self.memories.write(hashlib.sha256(first).hexdigest(), memory)

    def found(self) -> Repository | None:
        """The newest metadata, verified from its first root; None if there is no repository.

        ``UntrustedError`` or ``EvidenceError`` if it was altered since it was signed.
        """
        return None if self._verified is None else self._verified.repository

    def read(self) -> Repository:
        """As `found`; ``UsageError`` if there is no repository."""
        found = self.found()
        if found is None:
            raise UsageError(
                f"{self.folder} has no root, expected a repository of published measurements",
                hint="begin one with `privml-build publish root ROLES.toml --key FILE...`",
            )
        return found

    def index(self, name: str) -> Index | None:
        """The index of an image, as its publishers signed it; None if nothing of it is published."""
        return None if self._verified is None else self._verified.indexes.get(name)

    def version(self, name: str, number: str) -> follow.Version:
        """A version that counts, with its release and statement, verified; ``Refused`` if there is none such."""
        index = _index(self, name)
        entry = index.find(number)
        if entry is None:
            raise UsageError(f"{name} {number} is not published, expected one of {_versions(index)}")
        if not index.counts(entry):
            raise Refused(f"{name} {number} does not count any more: got {entry.state}, expected current")
        return follow.version_of(fetch_from(self.folder), index, entry, self.read().publishers(name))

    def write(self, files: Files) -> None:
        """Write a change that a client would take; the timestamp last."""
        first, memory = self._follow(files)
        last = metadata_path(TIMESTAMP)
        for path, data in sorted(files.items(), key=lambda item: item[0] == last):
            write_atomic(self.folder / path, data)
        self.__dict__.pop("_verified", None)  # it is of before
        self._remember(first, memory)

    def _follow(self, files: Mapping[str, bytes]) -> tuple[bytes, Memory]:
        """Follow the changed repository with the memory of the one before it: its first root, and what was seen."""
        on_disk = fetch_from(self.folder)

        def fetch(path: str, limit: int) -> bytes | None:
            data = files.get(path)
            return on_disk(path, limit) if data is None else data[: limit + 1]

        first = fetch(metadata_path(ROOT, 1), MAX_METADATA)
        assert first is not None
        update = follow.follow(fetch, first, Memory() if self._verified is None else self._verified.memory)
        for name in update.published:
            index = follow.index_of(update, fetch, name)
            old = self.index(name)
            if old is not None and (wrong := indexes.forbidden_changes(old, index)):
                raise Refused(f"{name}: {wrong[0]}")
            for entry in index.versions:
                if index.counts(entry):
                    follow.version_of(fetch, index, entry, update.publishers(name))
        return first, update.memory

    @property
    def today(self) -> str:
        """The day, as ``2026-11-29``."""
        return time_text(self.now)[:10]

    def edit(self) -> Edit:
        """An edit of the newest metadata."""
        return Edit(self.read(), self.signing, self.now)


def can_publish(place: Place, name: str) -> None:
    """``Refused`` if the keys do not suffice to publish a version of ``name``."""
    found = place.read()
    for role, what in (
        (found.publishers(name), name),
        (found.root.body.roles[SNAPSHOT], SNAPSHOT),
        (found.root.body.roles[TIMESTAMP], TIMESTAMP),
    ):
        place.signing.enough(role, [signer.public.keyid for signer in place.signing.signers], what)
    place.signing.missing.clear()


def new_version(place: Place, name: str, number: str, build: Build, serial: int | None = None) -> Files:
    """Publish a build as version ``number``; empty if it is there with the same bytes.

    ``Refused`` if it may not be published, if the version is there with other bytes, or if the serial goes back.
    """
    role = place.read().publishers(name)
    index = place.index(name) or Index(name, 1, ())
    version.check(build)
    known = index.find(number)
    wanted = known.serial if known is not None and serial is None else serial or version.next_serial(index)
    release = version.release_of(build, number, wanted)
    if release.name != name:
        raise Refused(f"the build is of {release.name}, expected {name}")
    if known is not None:
        if release.sha256 == known.release_sha256:
            return {}
        raise Refused(
            f"{name} {number} is published with other bytes: got release {release.sha256.hex()}, expected "
            f"{known.release_sha256.hex()}",
            hint="publish it under a new version; what was published never changes",
        )
    if wanted < version.next_serial(index):
        raise Refused(f"serial {wanted} goes back, expected at least {version.next_serial(index)}")
    if (place.folder / name / number).exists():
        raise Refused(
            f"{place.folder / name / number} is there, but not in the index: remove it, or restore the index"
        )
    files = version.files_of(build, release, role, place.signing)
    edit = place.edit()
    edit.image(name, dataclasses.replace(index, versions=(*index.versions, version.entry_of(release, place.today))))
    return {**files, **edit.finish()}


def wanted_version(text: str) -> tuple[str, str]:
    """``NAME@VERSION``; ``UsageError`` for anything else."""
    if not is_published(text):
        raise UsageError(f"got `{text[:80]}`, expected NAME@VERSION")
    name, _, number = text.partition("@")
    return name, number


def new_state(place: Place, name: str, number: str, state: State, reason: str, replaced_by: str | None) -> Files:
    """Change what a version counts for. A revoked or withdrawn one stays so."""

    def change(entry: Entry) -> Entry:
        if not entry.state.counts:
            raise Refused(f"{name} {number} is {entry.state}, which is final: got {state}")
        if not state.counts and not reason:
            raise UsageError(f"--reason is missing: say why {name} {number} is {state}")
        return dataclasses.replace(entry, state=state, reason=reason, since=place.today, replaced_by=replaced_by)

    index = _index(place, name)
    old = index.find(number)
    if old is None:
        raise UsageError(f"{name} {number} is not published, expected one of {_versions(index)}")
    later = [entry.version for entry in index.versions if entry.serial > old.serial]
    if replaced_by is not None and replaced_by not in later:
        raise UsageError(f"--replaced-by: got {replaced_by}, expected a later version: {', '.join(later) or 'none'}")
    entries = tuple(change(entry) if entry.version == number else entry for entry in index.versions)
    return _put(place, dataclasses.replace(index, versions=entries))


def new_minimum(place: Place, name: str, serial: int) -> Files:
    """Raise the lowest serial that still counts."""
    index = _index(place, name)
    if serial <= index.minimum_serial:
        raise Refused(f"minimum serial {serial} of {name}, expected more than {index.minimum_serial}: it only rises")
    if not any(entry.serial >= serial and entry.state.counts for entry in index.versions):
        raise Refused(f"minimum serial {serial} of {name} leaves no version that counts")
    return _put(place, dataclasses.replace(index, minimum_serial=serial))


def renew(place: Place) -> Files:
    """Sign the same content for longer: snapshot and timestamp, and what else the keys suffice for and ends sooner.

    ``place.notes`` says what ends within 14 days and could not be renewed.
    """
    found, edit = place.read(), place.edit()
    half = place.now + DAYS[TARGETS] * DAY // 2
    soon = place.now + 14 * DAY
    if found.targets.body.expires < half and _can(place, found.root.body.roles[TARGETS]):
        edit.targets(found.targets.body.images)
    elif found.targets.body.expires < soon:
        place.notes.append(_ends(TARGETS, found.targets.body.expires))
    for name, image in found.images.items():
        if image.body.expires < half and _can(place, found.targets.body.images[name]):
            edit.renew_image(name)
        elif image.body.expires < soon:
            place.notes.append(_ends(name, image.body.expires))
    if found.root.body.expires < place.now + 60 * DAY:
        end = time_text(found.root.body.expires)
        place.notes.append(f"root is valid until {end}: sign the next one with `privml-build publish root`")
    return edit.finish()


def new_roles(place: Place, roles: Roles, demonstration_until: int | None = None) -> Files:
    """Make the repository's keys those of ``roles``: the first root, or the next one signed as the old one asks.

    Images whose publishers change are signed again by the new ones, with the statements of their versions. With
    ``demonstration_until`` (Unix seconds), the root is marked as a demonstration that ends then; ``Refused`` if the
    repository is one and that is not given, or the other way round.
    """
    found = place.found()
    edit = Edit(found, place.signing, place.now)
    if found is not None and found.root.body.demonstration is not (demonstration_until is not None):
        said = "is a demonstration" if found.root.body.demonstration else "is a project's own, not a demonstration"
        raise Refused(
            f"{place.folder} {said}, and stays so", hint="begin another repository in another folder (--in)"
        )
    if found is None or found.root.body.roles != roles.top or _ends_too_soon(place, found, demonstration_until):
        edit.root(roles.top, demonstration_until)
    images = {} if found is None else found.targets.body.images
    if gone := sorted(set(() if found is None else found.images) - set(roles.images)):
        raise Refused(
            f"{gone[0]} has published versions, expected it to keep its publishers: clients take its absence for a "
            "roll-back",
            hint=f"revoke its versions with `privml-build publish state {gone[0]}@VERSION revoked`",
        )
    if edit.files or images != roles.images:
        edit.targets(roles.images)
    files: Files = {}
    for name in () if found is None else found.images:
        if images[name] != roles.images[name]:
            edit.renew_image(name)
            files |= _resigned(place, name, images[name], roles.images[name])
    if not edit.files:
        return {}
    return {**files, **edit.finish()}


def _ends_too_soon(place: Place, found: Repository, demonstration_until: int | None) -> bool:
    end = found.root.body.expires
    if demonstration_until is not None:
        return end != demonstration_until
    return end < place.now + DAYS[ROOT] * DAY // 2


def _resigned(place: Place, name: str, old: Role, new: Role) -> Files:
    """The envelopes of the versions that count, which ``old`` publishers signed, signed by ``new`` ones."""
    index, fetch = _index(place, name), fetch_from(place.folder)
    files = {}
    for entry in index.versions:
        if not index.counts(entry):
            continue
        release = follow.version_of(fetch, index, entry, old).release
        for envelope, sha256 in (
            (STATEMENT_FILE, release.statement_sha256),
            (PROVENANCE_FILE, release.provenance_sha256),
        ):
            path = f"{name}/{entry.version}/{envelope}"
            data = fetch(path, follow.MAX_ENVELOPE)
            if data is None or hashlib.sha256(dsse.decode(data, what=path).payload).digest() != sha256:
                raise EvidenceError(f"{path}: not the one that its release names")
            files[path] = version.resigned(data, new, place.signing, path)
    return files


def _put(place: Place, index: Index) -> Files:
    edit = place.edit()
    place.read().publishers(index.name)
    edit.image(index.name, index)
    return edit.finish()


def _index(place: Place, name: str) -> Index:
    place.read().publishers(name)
    index = place.index(name)
    if index is None:
        raise UsageError(f"no version of {name} is published")
    return index


def _versions(index: Index) -> str:
    return ", ".join(entry.version for entry in index.versions[-8:]) or "none"


def _can(place: Place, role: Role) -> bool:
    return len({signer.public.keyid for signer in place.signing.signers} & role.by_id.keys()) >= role.threshold


def _ends(role: str, end: int) -> str:
    return f"{role} is valid until {time_text(end)} and was not signed again: its keys are not among those given"
