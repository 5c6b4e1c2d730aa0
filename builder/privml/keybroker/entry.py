"""Entries of a broker's log: what was released, refused or administered.

A line is the entry's canonical JSON. ``seq`` counts from 0, ``prev`` is the SHA-256 of the line before (zeros for the
first), so a line that is changed, removed or moved is found without any head. A head finds lines cut off at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from privml.base.errors import EvidenceError, Refused
from privml.base.resource import MAX_GENERATION, MAX_RESOURCE, is_resource
from privml.base.strictjson import Fields, canonical
from privml.channel.release import LogHead
from privml.keybroker.tree import Tree

RELEASE = "release"
REFUSE = "refuse"
ADMIN = "admin"
KINDS = (RELEASE, REFUSE, ADMIN)
MAX_LINE = 16 * 1024
MAX_CODES = 128
START = bytes(32)
"""``prev`` of the first entry."""


@dataclass(frozen=True)
class Entry:
    """One entry. ``codes`` are refusal codes, or what an administrator did.

    ``resource`` is empty and ``generation`` 0 where an entry is about none. The digests (hex) say which document and
    quote (or report) were judged, ``image`` (hex) is the SHA-256 of the predicate, ``policy_sha256`` (hex) that of
    the owner's policy; each is empty where there is none. ``ppid`` (hex) is the platform's id: a TD's PPID, or the
    CHIP_ID of an SEV-SNP guest's.
    """

    kind: str
    resource: str = ""
    generation: int = 0
    codes: tuple[str, ...] = ()
    document_sha256: str = ""
    quote_sha256: str = ""
    ppid: str = ""
    image: str = ""
    policy_sha256: str = ""

    def line(self, seq: int, prev: bytes) -> bytes:
        """The entry as number ``seq`` of a log, after the line whose SHA-256 is ``prev``."""
        return canonical(self.to_dict(seq, prev))

    def to_dict(self, seq: int, prev: bytes) -> dict[str, object]:
        """The JSON object of a line."""
        return {
            "seq": seq,
            "prev": prev.hex(),
            "kind": self.kind,
            "resource": self.resource,
            "generation": self.generation,
            "codes": list(self.codes),
            "document_sha256": self.document_sha256,
            "quote_sha256": self.quote_sha256,
            "ppid": self.ppid,
            "image": self.image,
            "policy_sha256": self.policy_sha256,
        }


def parse(line: bytes, seq: int, prev: bytes) -> Entry:
    """Read a line; ``EvidenceError`` unless it is entry ``seq`` after ``prev`` in canonical JSON."""
    what = f"log entry {seq}"
    if len(line) > MAX_LINE:
        raise EvidenceError(f"{what}: {len(line)} bytes, expected at most {MAX_LINE}")
    try:
        # Whatever else JSON allows, such as a key given twice, does not survive the comparison at the end.
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{what}: not JSON") from error
    fields = Fields(value, what)
    if (found := fields.integer("seq")) != seq:
        raise EvidenceError(f"{what}: says that it is number {found}: a line is missing or was moved")
    if fields.hexadecimal("prev", 32) != prev:
        raise EvidenceError(f"{what}: does not follow the line before it, which was changed or removed")
    kind = fields.text("kind", one_of=KINDS)
    resource = fields.text("resource", limit=MAX_RESOURCE)
    if resource and not is_resource(resource):
        raise EvidenceError(f"{what}.resource: got `{resource}`, expected a resource's name")
    generation = fields.integer("generation", high=MAX_GENERATION)
    codes = fields.array("codes", limit=MAX_CODES)
    if not all(isinstance(code, str) and len(code) <= 64 for code in codes):
        raise EvidenceError(f"{what}.codes: expected a list of codes")
    entry = Entry(
        kind,
        resource,
        generation,
        tuple(codes),
        document_sha256=_digest(fields, "document_sha256"),
        quote_sha256=_digest(fields, "quote_sha256"),
        ppid=fields.hexadecimal("ppid").hex(),
        image=_digest(fields, "image"),
        policy_sha256=_digest(fields, "policy_sha256"),
    )
    fields.end()
    if entry.line(seq, prev) != line:
        raise EvidenceError(f"{what}: not canonical JSON")
    return entry


def _digest(fields: Fields, name: str) -> str:
    found = fields.hexadecimal(name)
    if len(found) not in (0, 32):
        raise EvidenceError(f"{fields.path}.{name}: {len(found)} bytes, expected 32 or none")
    return found.hex()


def digest(line: bytes) -> bytes:
    """SHA-256 of a line, the next one's ``prev``."""
    return hashlib.sha256(line).digest()


@dataclass(frozen=True)
class Checked:
    """A log that was read whole: its head, and how many entries of each kind it has."""

    head: LogHead
    counts: dict[str, int]


def check(lines: Iterable[bytes], pinned: Iterable[LogHead] = ()) -> Checked:
    """Read a log from its first line to its last.

    ``EvidenceError`` for a line that is changed, removed or moved. ``Refused`` if the log does not continue one of
    the ``pinned`` heads: it was cut, or replaced by another one.
    """
    wanted: dict[int, bytes] = {}
    for head in pinned:
        if wanted.setdefault(head.size, head.root) != head.root:
            raise Refused(f"log-head: two different heads of {head.size} entries: one of them is of another log")
    counts = dict.fromkeys(KINDS, 0)
    tree, prev = Tree(), START
    _compare(tree, wanted)
    for seq, line in enumerate(lines):
        counts[parse(line, seq, prev).kind] += 1
        prev = digest(line)
        tree.append(line)
        _compare(tree, wanted)
    if wanted:
        raise Refused(
            f"log-cut: {tree.size} entries, expected at least {min(wanted)}",
            hint="entries are missing at the end: the store is an old copy, or somebody removed them",
        )
    return Checked(tree.head, counts)


def _compare(tree: Tree, wanted: dict[int, bytes]) -> None:
    if tree.size in wanted and (root := wanted.pop(tree.size)) != tree.head.root:
        raise Refused(
            f"log-head: the first {tree.size} entries have root {tree.head.root.hex()}, expected {root.hex()}",
            hint="this is not a continuation of the log whose head was kept",
        )
