"""Entries of the log of a repository: which files are logged, in which order, and how an entry names one.

Contract: docs/ARCHITECTURE.md, "Published measurements".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, canonical, loads
from privml.statement import tlog
from privml.statement.follow import FOLDER as TUF
from privml.statement.index import INDEX_FILE
from privml.statement.rebuilders import FOLDER as ENDORSEMENTS
from privml.statement.release import RELEASE_FILE

FORMAT = "privml-log-entry/v1"
FOLDER = "log"
"""The folder of the log, which logs nothing of itself."""
_ROOT = re.compile(rf"{TUF}/(\d+)\.root\.json")
_ONCE = re.compile(rf"[^/]+/[^/]+/(?:{re.escape(RELEASE_FILE)}|{ENDORSEMENTS}/[^/]+\.dsse\.json)")
_INDEX = re.compile(rf"[^/]+/{re.escape(INDEX_FILE)}")


@dataclass(frozen=True)
class Entry:
    """A file of the repository, as it was when it was logged."""

    path: str
    sha256: bytes

    @property
    def changes(self) -> bool:
        """True for a file that is logged again whenever it changes: an index."""
        return _INDEX.fullmatch(self.path) is not None

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical({"format": FORMAT, "path": self.path, "sha256": self.sha256.hex()})

    @classmethod
    def decode(cls, data: bytes, what: str) -> Entry:
        """Read an entry; ``EvidenceError`` if it is malformed, or of a file that is not logged."""
        fields = Fields(loads(data, what=what, limit=tlog.MAX_ENTRY), what)
        fields.text("format", one_of=(FORMAT,))
        found = cls(fields.text("path", limit=512), fields.hexadecimal("sha256", 32))
        fields.end()
        if order(found.path) is None or found.encode() != data:
            raise EvidenceError(
                f"{what}: `{printable(found.path)[:80]}` is no file that is logged, or not canonical JSON"
            )
        return found


def order(path: str) -> tuple[int, int, str] | None:
    """Where a file comes among those that are logged together; None for one that is not logged."""
    if match := _ROOT.fullmatch(path):
        return 0, int(match[1]), path
    if path.startswith((f"{TUF}/", f"{FOLDER}/")):
        return None
    if _ONCE.fullmatch(path):
        return (1 if path.endswith(RELEASE_FILE) else 3), 0, path
    return (2, 0, path) if _INDEX.fullmatch(path) else None
