"""Follow a repository of published measurements from a trusted root to an image's index and statements.

The files come from a function that the caller gives: of a directory, a server, a table in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from privml.base import dsse
from privml.base.dsse import Envelope
from privml.base.errors import EvidenceError
from privml.statement import intoto, release, signed
from privml.statement.index import INDEX_FILE, Entry, Index
from privml.statement.intoto import Statement
from privml.statement.keys import Role
from privml.statement.metadata import MAX_METADATA, SNAPSHOT, TARGETS, TIMESTAMP
from privml.statement.release import (
    MANIFEST_FILE,
    MAX_RELEASE,
    PROVENANCE_FILE,
    RELEASE_FILE,
    STATEMENT_FILE,
    Release,
)
from privml.statement.untrusted import UntrustedError
from privml.statement.update import MAX_ROOTS, Memory, Update

Fetch = Callable[[str, int], bytes | None]
"""(path below the repository, limit) -> the file, or its first limit + 1 bytes; None if there is no such file."""

FOLDER = "tuf"
"""The folder of the metadata, below that of the images."""
MAX_TIMESTAMP = 16 * 1024
MAX_ENVELOPE = 16 * 1024 * 1024


def metadata_path(role: str, version: int | None = None) -> str:
    """``tuf/N.ROLE.json``; the timestamp has no version in its name."""
    return f"{FOLDER}/{role}.json" if version is None else f"{FOLDER}/{version}.{role}.json"


def follow(fetch: Fetch, root: bytes, memory: Memory) -> Update:
    """Take every later root, then timestamp, snapshot and targets. Errors are those of `Update`."""
    update = Update(root, memory)
    return take(update, fetch)


def take(update: Update, fetch: Fetch) -> Update:
    """Bring ``update``, which has only its root, up to the targets; what it took stays in it also on an error."""
    for _ in range(MAX_ROOTS):
        data = fetch(metadata_path("root", update.next_root), MAX_METADATA)
        if data is None:
            break
        update.root(data)  # the decoder has the limit
    else:
        raise UntrustedError("trust-root", f"more than {MAX_ROOTS} newer roots", "a newer root to begin with")
    snapshot = update.timestamp(_bounded(fetch, metadata_path(TIMESTAMP), MAX_TIMESTAMP))
    # A file that is longer than it is named to be is refused by its digest.
    targets = update.snapshot(_there(fetch, metadata_path(SNAPSHOT, snapshot.version), snapshot.length))
    update.targets(_there(fetch, metadata_path(TARGETS, targets.version), targets.length))
    return update


def index_of(update: Update, fetch: Fetch, name: str) -> Index:
    """The index of image ``name``, as its publishers signed it."""
    info = update.image_info(name)
    image = update.image(name, _there(fetch, metadata_path(name, info.version), info.length))
    return update.index(_there(fetch, f"{name}/{INDEX_FILE}", image.length))


@dataclass(frozen=True)
class Version:
    """One published version: its row in the index, its release, and its statement with those who signed it."""

    entry: Entry
    release: Release
    statement: Statement
    envelope: Envelope
    signers: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where its files are, below the repository."""
        return f"{self.release.name}/{self.release.version}"


def version_of(fetch: Fetch, index: Index, entry: Entry, role: Role) -> Version:
    """Read the release and statement of a version; ``role`` are the publishers of the image.

    ``UntrustedError``: `statement-digest` if a file is not the one that the index or release names,
    `statement-signatures` if too few publishers signed. ``EvidenceError`` if something is malformed.
    """
    folder = f"{index.name}/{entry.version}"
    data = _there(fetch, f"{folder}/{RELEASE_FILE}", MAX_RELEASE)
    _named(f"{folder}/{RELEASE_FILE}", data, entry.release_sha256)
    found = release.decode(data, f"{folder}/{RELEASE_FILE}")
    if (found.name, found.version, found.serial) != (index.name, entry.version, entry.serial):
        raise UntrustedError(
            "statement-digest",
            f"the release of {found.name} {found.version} (serial {found.serial})",
            f"that of {index.name} {entry.version} (serial {entry.serial})",
        )
    where = f"{folder}/{STATEMENT_FILE}"
    envelope = dsse.decode(_bounded(fetch, where, MAX_ENVELOPE), what=where)
    verified = signed.verify(envelope, role, what=where)
    _named(f"the payload of {where}", verified.payload, found.statement_sha256)
    statement = intoto.decode(verified.payload)
    if intoto.encode(statement) != verified.payload:
        raise EvidenceError(f"{where}: its payload is not canonical JSON (RFC 8785)")
    predicate = statement.predicate
    manifest = found.files[MANIFEST_FILE].sha256
    if predicate.name != index.name or predicate.manifest_sha256 != manifest:
        raise UntrustedError(
            "statement-digest",
            f"a statement of {predicate.name} with manifest {predicate.manifest_sha256.hex()}",
            f"one of {index.name} with manifest {manifest.hex()}",
        )
    return Version(entry, found, statement, envelope, verified.signers)


def manifest_of(fetch: Fetch, version: Version) -> bytes:
    """The manifest of a version, as its release and statement name it; errors as of `version_of`."""
    return file_of(fetch, version, MANIFEST_FILE)


def file_of(fetch: Fetch, version: Version, name: str) -> bytes:
    """A file of a version, as its release names it; errors as of `version_of`."""
    where = f"{version.folder}/{name}"
    named = version.release.files[name]
    data = _there(fetch, where, min(named.size, MAX_ENVELOPE))
    _named(where, data, named.sha256)
    return data


def provenance_of(fetch: Fetch, version: Version, role: Role) -> Envelope:
    """The provenance of a version, signed by its publishers ``role``; errors as of `version_of`."""
    where = f"{version.folder}/{PROVENANCE_FILE}"
    envelope = dsse.decode(_bounded(fetch, where, MAX_ENVELOPE), what=where)
    payload = signed.verify(envelope, role, what=where).payload
    _named(f"the payload of {where}", payload, version.release.provenance_sha256)
    return envelope


def _named(what: str, data: bytes, expected: bytes) -> None:
    got = hashlib.sha256(data).digest()
    if got != expected:
        raise UntrustedError("statement-digest", f"{what} with sha256 {got.hex()}", expected.hex())


def _bounded(fetch: Fetch, path: str, limit: int) -> bytes:
    data = _there(fetch, path, limit)
    if len(data) > limit:
        raise EvidenceError(f"{path}: more than {limit} bytes")
    return data


def _there(fetch: Fetch, path: str, limit: int) -> bytes:
    data = fetch(path, limit)
    if data is None:
        raise EvidenceError(f"{path}: no such file in the repository")
    return data
