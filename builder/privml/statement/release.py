"""``release.json``: the files of one published version, and what its statement must be.

Everything is bound by digests: the index names the release, the release its files and its statement, the manifest the
artefacts. Signed envelopes are not in ``files``, because a second publisher adds a signature to them; their payloads
are named by digest. Contract: docs/ARCHITECTURE.md, "Published measurements".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, canonical, loads
from privml.statement.names import name_of, version_of

FORMAT = "privml-release/v1"
MAX_RELEASE = 1 << 20
MAX_FILES = 1024
RELEASE_FILE = "release.json"
STATEMENT_FILE = "statement.dsse.json"
PROVENANCE_FILE = "provenance.dsse.json"
MANIFEST_FILE = "manifest.json"
ENVELOPES = (STATEMENT_FILE, PROVENANCE_FILE)
PROOF_FILE = "statement.tlog-proof"
"""The proof that the release is in a log. It is written after the release, and may be replaced by a newer one."""
CI_FILE = "ci.sigstore.json"
"""What CI attested of the version. It is added after the release."""
FILES = ("lock.json", MANIFEST_FILE, "recipe.yaml", "sbom.cdx.json", "tools.lock.json")
"""The files that each release has, besides itself and its envelopes."""
_PATH = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._+-]*(?:/[0-9A-Za-z_][0-9A-Za-z._+-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """Digest (32 bytes) and size of one file."""

    sha256: bytes
    size: int

    @classmethod
    def of(cls, data: bytes) -> File:
        """The record of these bytes."""
        return cls(hashlib.sha256(data).digest(), len(data))


@dataclass(frozen=True)
class Release:
    """One version. Digests are 32 bytes: of the payloads of both envelopes, and of the canonical recipe and lock.

    ``commit`` is that of the sources it was built from, ``tool`` the version of privml-build.
    """

    name: str
    version: str
    serial: int
    files: Mapping[str, File]
    statement_sha256: bytes
    provenance_sha256: bytes
    recipe_sha256: bytes
    lock_sha256: bytes
    commit: str
    tool: str

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the encoded release, by which the index names it."""
        return hashlib.sha256(self.encode()).digest()

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "name": self.name,
                "version": self.version,
                "serial": self.serial,
                "files": {
                    path: {"sha256": file.sha256.hex(), "size": file.size} for path, file in self.files.items()
                },
                "statement_sha256": self.statement_sha256.hex(),
                "provenance_sha256": self.provenance_sha256.hex(),
                "recipe_sha256": self.recipe_sha256.hex(),
                "lock_sha256": self.lock_sha256.hex(),
                "commit": self.commit,
                "tool": self.tool,
            }
        )


def decode(data: bytes, what: str = "release") -> Release:
    """Read ``release.json``; ``EvidenceError`` if it is malformed, not canonical, or lacks a file."""
    fields = Fields(loads(data, what=what, limit=MAX_RELEASE), what)
    fields.text("format", one_of=(FORMAT,))
    release = Release(
        name=name_of(fields),
        version=version_of(fields),
        serial=fields.integer("serial", low=1),
        files=_files(fields.fields("files")),
        statement_sha256=fields.hexadecimal("statement_sha256", 32),
        provenance_sha256=fields.hexadecimal("provenance_sha256", 32),
        recipe_sha256=fields.hexadecimal("recipe_sha256", 32),
        lock_sha256=fields.hexadecimal("lock_sha256", 32),
        commit=_matching(fields, "commit", _COMMIT, "a commit's hex digits"),
        tool=fields.text("tool", limit=64),
    )
    fields.end()
    if release.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON (RFC 8785)")
    return release


def _files(fields: Fields) -> dict[str, File]:
    found: dict[str, File] = {}
    rows: dict[str, Any] = fields.rest()
    if len(rows) > MAX_FILES:
        raise EvidenceError(f"{fields.path}: {len(rows)} files, expected at most {MAX_FILES}")
    for path, value in rows.items():
        if len(path) > 200 or not _PATH.fullmatch(path):
            raise EvidenceError(f"{fields.path}: `{printable(path)[:80]}` is not a plain relative path")
        row = Fields(value, f"{fields.path}.{path}")
        found[path] = File(row.hexadecimal("sha256", 32), row.integer("size"))
        row.end()
    if missing := [name for name in FILES if name not in found]:
        raise EvidenceError(f"{fields.path}: no `{missing[0]}`, expected {', '.join(FILES)}")
    if reserved := [name for name in (RELEASE_FILE, *ENVELOPES, PROOF_FILE, CI_FILE) if name in found]:
        raise EvidenceError(f"{fields.path}: `{reserved[0]}` is named, which no list of files may")
    return found


def _matching(fields: Fields, key: str, pattern: re.Pattern[str], expected: str) -> str:
    text = fields.text(key, limit=64)
    if not pattern.fullmatch(text):
        raise EvidenceError(f"{fields.path}.{key}: got `{printable(text)}`, expected {expected}")
    return text
