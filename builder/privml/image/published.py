"""The files of one published version, read from a repository and compared with each other.

Signatures and digests say that the publishers gave these files; this says that they belong together: the manifest to
the statement, the locks to the manifest. Nothing of the checkout is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from privml.base.dsse import Envelope
from privml.base.errors import EvidenceError, InputsError
from privml.lock.lockfile import parse
from privml.lock.models import Lock, ToolsLock
from privml.output import manifest as manifests
from privml.output.manifest import Manifest
from privml.output.prediction import statement_of
from privml.statement import follow
from privml.statement.follow import Fetch, Version
from privml.statement.keys import Role
from privml.statement.release import MANIFEST_FILE

LOCK_FILE = "lock.json"
TOOLS_LOCK_FILE = "tools.lock.json"


@dataclass(frozen=True)
class Documents:
    """A version with its files by the names of its release, and the provenance that its publishers signed."""

    version: Version
    manifest: Manifest
    lock: Lock
    files: Mapping[str, bytes]
    provenance: Envelope


def documents(fetch: Fetch, version: Version, role: Role) -> Documents:
    """Read every file of a version; ``role`` are the publishers of the image.

    ``UntrustedError`` (`statement-digest`, `statement-signatures`) if a file is not the one that was signed,
    ``EvidenceError`` if files contradict each other or one is missing.
    """
    release, folder = version.release, version.folder
    files = {name: follow.file_of(fetch, version, name) for name in release.files}
    provenance = follow.provenance_of(fetch, version, role)
    manifest = manifests.decode(files[MANIFEST_FILE])
    try:
        lock = parse(files[LOCK_FILE], Lock, LOCK_FILE)
        tools = _tools_digest(files[TOOLS_LOCK_FILE])
    except InputsError as error:
        raise EvidenceError(f"{folder}/{error.message}") from error
    for what, got, expected in (
        ("name", manifest.name, release.name),
        ("recipe of the manifest", manifest.recipe_sha256, release.recipe_sha256.hex()),
        ("lock of the manifest", manifest.lock_sha256, release.lock_sha256.hex()),
        (LOCK_FILE, lock.digest, release.lock_sha256.hex()),
        ("recipe of the lock", lock.recipe_sha256, release.recipe_sha256.hex()),
        (TOOLS_LOCK_FILE, tools, lock.tools_sha256),
    ):
        if got != expected:
            raise EvidenceError(f"{folder}: {what}: got {got}, expected {expected}")
    if version.statement != statement_of(manifest, version.statement.predicate):
        raise EvidenceError(f"{folder}: the statement is not of the manifest's artefacts")
    return Documents(version, manifest, lock, files, provenance)


@lru_cache(maxsize=8)
def _tools_digest(data: bytes) -> str:
    """The digest of a tools lock, which most versions have in common."""
    return parse(data, ToolsLock, TOOLS_LOCK_FILE).digest
