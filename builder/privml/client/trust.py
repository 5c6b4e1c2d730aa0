"""The second anchor: published measurements under a root that the caller trusts.

The repository is a directory or an address. Everything read from it is checked from the root down
(`statement.follow`); the newest versions seen are kept in `output.memory`, so that no older copy is accepted later.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.http import Connections, base_address
from privml.base.wayout import environment_way_out
from privml.client import anchors
from privml.client.ci import Workflow
from privml.client.requests import AbsentError, Requests
from privml.output import manifest as manifests
from privml.output.memory import Memories
from privml.output.repository import fetch_from
from privml.statement import follow, logentry, logpolicy, names, rebuilders
from privml.statement.follow import Fetch, Version
from privml.statement.index import Entry, Index
from privml.statement.keys import Role
from privml.statement.logpolicy import LogPolicy
from privml.statement.metadata import MAX_METADATA
from privml.statement.rebuilders import Endorsements, Rebuilder
from privml.statement.release import PROOF_FILE, RELEASE_FILE
from privml.statement.tlog import MAX_PROOF, Proof
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Memory, Update
from privml.verify.anchor import Anchored, Candidates, Expected, Logged, Published

TIMEOUT = 60.0
"""Seconds for everything that is fetched for one verification."""
MAX_STATEMENTS = 64
"""Statements that are read without a version: the newest that count, and as many of those that do not."""
_FIRST = "first use of this root here: there was nothing to compare the index's versions with"
_WITHOUT = "without a network, copy the repository and name its directory with --index DIR"


@dataclass(frozen=True)
class Trusted:
    """A repository under a root that the caller trusts: the root's bytes, and the directory or address.

    ``state`` is the directory of the memory (None: the default).
    """

    root: bytes
    source: str
    state: Path | None = None

    @contextlib.contextmanager
    def followed(self) -> Iterator[tuple[Update, Fetch, tuple[str, ...]]]:
        """The repository followed down to its targets, a way to fetch more, and notes; what is seen is remembered.

        ``UntrustedError`` if the root does not vouch for it, ``EvidenceError`` if what was read is malformed,
        ``HostError`` if the repository or the memory cannot be reached.
        """
        memories = Memories(self.state)
        key = hashlib.sha256(self.root).hexdigest()
        memory = memories.read(key)
        with opened(self.source) as fetch:
            update = Update(self.root, memory)
            try:
                yield follow.take(update, fetch), fetch, (_FIRST,) if memory.root == 0 else ()
            finally:
                memories.write(key, update.memory)


@dataclass(frozen=True)
class Vouched:
    """A version that the root vouches for: signed by the publishers ``role``; ``fetch`` reads its files."""

    version: Version
    role: Role
    anchor: Published
    fetch: Fetch


@dataclass(frozen=True)
class _Followed:
    """A repository as it was followed from the root to an image's index, at ``now``; ``notes`` for people."""

    update: Update
    index: Index
    fetch: Fetch
    now: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """What the caller trusts: the bytes of ``root``, image ``name``, and one ``version`` or (None) any that counts.

    ``source`` is the directory or address of the repository, ``state`` the directory of the memory (None: the
    default). ``asked`` of ``rebuilders`` must have got the same; None if the caller relies on none. ``logs`` says in
    which log the version must be, ``workflow`` which one must have attested it; None if the caller asks for none.
    """

    root: bytes
    name: str
    version: str | None
    source: str
    state: Path | None = None
    rebuilders: tuple[Rebuilder, ...] = ()
    asked: int | None = None
    logs: LogPolicy | None = None
    workflow: Workflow | None = None

    @property
    def root_sha256(self) -> bytes:
        """SHA-256 of the root's file, by which people compare it."""
        return hashlib.sha256(self.root).digest()

    def expected(self, now: int) -> Anchored:
        """The measurements that the root vouches for at ``now`` (Unix seconds), read afresh.

        ``UntrustedError`` if it vouches for none, ``EvidenceError`` if what was read is malformed, ``HostError`` if
        the repository or the memory cannot be reached.
        """
        with self._followed(now) as found:
            return self._versions(found)

    @contextlib.contextmanager
    def release(self, now: int) -> Iterator[Vouched]:
        """The wanted version, whose files can be read inside the block; errors as of `expected`.

        What its publishers say of it is in its anchor: whether it counts is not judged here.
        """
        with self._followed(now) as found:
            yield self._vouched(found, self._entry(found.index))

    @contextlib.contextmanager
    def _followed(self, now: int) -> Iterator[_Followed]:
        with Trusted(self.root, self.source, self.state).followed() as (update, fetch, notes):
            yield _Followed(update, follow.index_of(update, fetch, self.name), fetch, now, notes)

    def _entry(self, index: Index) -> Entry:
        entry = None if self.version is None else index.find(self.version)
        if entry is None:
            known = ", ".join(each.version for each in index.versions[-8:]) or "none"
            raise UntrustedError("version-unknown", f"{self.name} {self.version}", f"one of {known}")
        return entry

    def _versions(self, at: _Followed) -> Anchored:
        if self.version is not None:
            return self._expected(at, self._entry(at.index))
        newest = at.index.versions[::-1]
        counting = [entry for entry in newest if at.index.counts(entry)][:MAX_STATEMENTS]
        found = [self._expected(at, entry) for entry in counting]
        # A guest of a version that counts no more is refused with that reason, if its statement is still there.
        for entry in [entry for entry in newest if not at.index.counts(entry)][:MAX_STATEMENTS]:
            with contextlib.suppress(UntrustedError, EvidenceError):
                found.append(self._expected(at, entry))
        if not found:
            raise UntrustedError("version-unknown", f"{self.name} without a version", "at least one version")
        return Candidates(tuple(found))

    def _expected(self, at: _Followed, entry: Entry) -> Expected:
        found = self._vouched(at, entry)
        manifest = manifests.decode(follow.manifest_of(at.fetch, found.version))
        contents = anchors.models_of(manifest), anchors.data_of(manifest)
        return Expected(found.version.statement.predicate, found.anchor, *contents)

    def _vouched(self, at: _Followed, entry: Entry) -> Vouched:
        role = at.update.publishers(self.name)
        version = follow.version_of(at.fetch, at.index, entry, role)
        said = Endorsements((), {})
        if self.asked is not None:
            said = rebuilders.endorsed(at.fetch, version, role, self.rebuilders)
        anchor = Published(
            name=self.name,
            version=entry.version,
            serial=entry.serial,
            state=entry.state,
            reason=entry.reason,
            replaced_by=entry.replaced_by,
            minimum_serial=at.index.minimum_serial,
            signers=version.signers,
            threshold=role.threshold,
            publishers=len(role.keys),
            as_of=at.now,
            expiries=at.update.expiries,
            rebuilders=said.identical,
            rebuilders_asked=self.asked,
            demonstration=at.update.demonstration,
            log=None if self.logs is None else _logged(self.logs, at.fetch, version),
            ci=None if self.workflow is None else self.workflow.shown(at.fetch, version),
            notes=(*at.notes, *(f"rebuilder {who}: {why}" for who, why in said.others.items())),
        )
        return Vouched(version, role, anchor, at.fetch)


def _logged(logs: LogPolicy, fetch: Fetch, version: Version) -> Logged:
    """What the proof next to a release shows. A bad proof shows nothing."""
    folder = version.folder
    data = fetch(f"{folder}/{PROOF_FILE}", MAX_PROOF)
    if data is None:
        return Logged(f"no {folder}/{PROOF_FILE}")
    entry = logentry.Entry(f"{folder}/{RELEASE_FILE}", version.entry.release_sha256)
    try:
        proof = Proof.decode(data)
        state, witnesses = logs.check(proof, entry.encode())
    except EvidenceError as error:
        return Logged(f"{folder}/{PROOF_FILE}: {error.message}")
    return Logged("", state.origin, proof.index, state.size, witnesses, logs.met(witnesses), logs.asked)


def trust_of(
    root: Path,
    wanted: str,
    source: str | None,
    *,
    state: Path | None = None,
    rebuilt: str | None = None,
    log_policy: Path | None = None,
    workflow: Workflow | None = None,
) -> Trust:
    """Read the caller's words: a root's file, ``NAME[@VERSION]``, where the repository is, ``FILE:k``, and a policy.

    Without ``source`` the repository is the root's directory. ``UsageError`` for what cannot be.
    """
    name, at, version = wanted.partition("@")
    if not names.is_name(name) or (at and not names.is_version(version)):
        raise UsageError(f"--trust: got `{wanted[:80]}`, expected NAME or NAME@VERSION")
    found = trusted(root, source, state=state)
    people, asked = ((), None) if rebuilt is None else _rebuilders(rebuilt)
    logs = None if log_policy is None else read_log_policy(log_policy)
    return Trust(found.root, name, version or None, found.source, state, people, asked, logs, workflow)


def trusted(root: Path, source: str | None, *, state: Path | None = None) -> Trusted:
    """Read the caller's root, and where the repository is: by default the root's directory.

    ``UsageError`` for what cannot be.
    """
    try:
        data = read_start(root, MAX_METADATA)
        Update(data, Memory())
    except OSError as error:
        raise UsageError(f"--trust: {root} cannot be read: {error.strerror or error}") from error
    except EvidenceError as error:
        raise EvidenceError(f"--trust {root}: {error.message}") from error
    if source is None:
        source = str(root.parent)
        if not (root.parent / follow.FOLDER).is_dir():
            raise UsageError(
                f"--trust: {root.parent} is not a repository of published measurements",
                hint="name its directory or address with --index",
            )
    elif _is_address(source):
        source = base_address(source, "repository")
    elif not Path(source).is_dir():
        raise UsageError(f"--index: got `{source}`, expected a directory or an http(s) address")
    return Trusted(data, source, state)


def _rebuilders(text: str) -> tuple[tuple[Rebuilder, ...], int]:
    file, _, number = text.rpartition(":")
    if not file or not (number.isascii() and number.isdecimal() and len(number) < 4):
        raise UsageError(f"--rebuilders: got `{text[:80]}`, expected FILE:k, like rebuilders.json:2")
    try:
        found = rebuilders.decode(read_start(Path(file), rebuilders.MAX_LIST), file)
    except OSError as error:
        raise UsageError(f"--rebuilders: {file} cannot be read: {error.strerror or error}") from error
    asked = int(number)
    if not 1 <= asked <= len(found):
        raise UsageError(f"--rebuilders: got {asked}, expected 1 to the {len(found)} rebuilders in {file}")
    return found, asked


def read_log_policy(file: Path, option: str = "--log-policy") -> LogPolicy:
    """The policy for logs in a file that an option names; ``UsageError`` if there is none to read."""
    try:
        return logpolicy.decode(read_start(file, logpolicy.MAX_POLICY), str(file))
    except OSError as error:
        raise UsageError(f"{option}: {file} cannot be read: {error.strerror or error}") from error


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


@contextlib.contextmanager
def opened(source: str) -> Iterator[Fetch]:
    """A way to fetch files of the repository at ``source``, a directory or an address."""
    if not _is_address(source):
        yield fetch_from(Path(source))
        return
    with Cutoff(TIMEOUT) as deadline, Connections(environment_way_out(), deadline=deadline) as connections:

        def fetch(path: str, limit: int) -> bytes | None:
            # One byte more, so that the file's own reader refuses it and says which it is.
            requests = Requests(connections, deadline, limit + 1, without=_WITHOUT)
            try:
                return requests.get(f"{source}/{path}").body
            except AbsentError:
                return None

        yield fetch
