"""The log of a repository: an append-only list of everything that was signed, as static C2SP tiles in ``log/``.

An entry names a file of the repository and its SHA-256: each root, release and endorsement, and each state of an
index. So whoever keeps a checkpoint can later show that something was published and taken away, or shown to them
alone. Next to each logged release is the proof that it is in the log, for callers who ask for one. Contract:
docs/ARCHITECTURE.md, "Published measurements".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from privml.base.errors import EvidenceError, Refused, UsageError
from privml.base.files import read_start
from privml.output.repository import fetch_from
from privml.publish.signer import Signer
from privml.statement import tlog
from privml.statement.follow import MAX_ENVELOPE
from privml.statement.keys import ED25519, ED25519_PREFIX
from privml.statement.logentry import FOLDER, Entry, order
from privml.statement.release import PROOF_FILE, RELEASE_FILE
from privml.statement.tlog import Checkpoint, Note, NoteKey, Proof

CHECKPOINT = f"{FOLDER}/checkpoint"
KEY = f"{FOLDER}/key"
_MAX_TILE = tlog.TILE * (tlog.MAX_ENTRY + 2)
_TILE = re.compile(rf"{FOLDER}/tile/(\d|entries)/((?:x\d{{3}}/)*\d{{3}})(?:\.p/([1-9]\d{{0,2}}))?")


@dataclass(frozen=True)
class Log:
    """A log that was read whole: its key, the newest checkpoint (a signed note), and its entries."""

    key: NoteKey
    checkpoint: bytes
    raw: tuple[bytes, ...]

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The entries, read."""
        return tuple(Entry.decode(data, f"entry {number} of the log") for number, data in enumerate(self.raw))

    @cached_property
    def last(self) -> dict[str, tuple[int, bytes]]:
        """Number and SHA-256 of the newest entry of each path."""
        return {entry.path: (number, entry.sha256) for number, entry in enumerate(self.entries)}

    @cached_property
    def rows(self) -> list[list[bytes]]:
        """The hashes of each level of tiles."""
        return tlog.rows_of(self.raw)

    def root(self, size: int) -> bytes:
        """The root when the log had ``size`` entries."""
        return tlog.root_of(self.rows[0][:size] if self.rows else [])


def read(folder: Path, key: NoteKey | None = None) -> Log | None:
    """The log in ``folder``, read whole; None if there is none.

    ``key`` is what the caller expects, else the log's own copy is taken. ``EvidenceError`` if it is malformed, or its
    tiles do not lead to its checkpoint.
    """
    fetch = fetch_from(folder)
    note = fetch(CHECKPOINT, tlog.MAX_NOTE)
    if note is None:
        return None
    own = _own_key(folder)
    if key is not None and own != key:
        raise EvidenceError(f"{KEY}: got {own.text}, expected {key.text}")
    newest = Checkpoint.read(note, own)
    bundles = {}
    for path in tlog.bundle_paths(newest.size):
        data = fetch(f"{FOLDER}/{path}", _MAX_TILE)
        if data is None:
            raise EvidenceError(f"{FOLDER}/{path}: no such file, expected {newest.size} entries")
        bundles[path] = data
    found = Log(own, note, tlog.entries_of(bundles, newest.size))
    if found.root(newest.size) != newest.root:
        raise EvidenceError(f"{CHECKPOINT}: its root is not that of its {newest.size} entries")
    for path, data in tlog.tiles(found.raw).items():
        if fetch(f"{FOLDER}/{path}", len(data)) != data:
            raise EvidenceError(f"{FOLDER}/{path}: not the tile of the entries")
    return found


def _own_key(folder: Path) -> NoteKey:
    data = fetch_from(folder)(KEY, 1024)
    if data is None:
        raise EvidenceError(f"{KEY}: no such file, and there is a checkpoint")
    text = data.decode("ascii", "replace")
    if not text.endswith("\n"):
        raise EvidenceError(f"{KEY}: expected one line")
    return NoteKey.decode(text[:-1])


def append(folder: Path, signer: Signer, origin: str | None) -> dict[str, bytes]:
    """What to write, in this order, so that everything in ``folder`` is logged and proven; empty if it is already.

    ``Refused`` if a logged file has other bytes now, or the key is not the log's. A new log needs ``origin``.
    """
    found = read(folder)
    if signer.public.algorithm != ED25519:
        raise UsageError(f"--key: a key of kind {signer.public.algorithm}, expected {ED25519}: logs have no other")
    raw_key = signer.public.spki.removeprefix(ED25519_PREFIX)
    if found is None:
        if origin is None:
            raise UsageError(
                f"{folder} has no log yet, and --origin is missing",
                hint="name it once, like `example.org/measurements`",
            )
        key, raw = NoteKey(origin, raw_key), tuple[bytes, ...]()
    else:
        key, raw = found.key, found.raw
        if (origin or key.name, raw_key) != (key.name, key.key):
            raise Refused(f"the log is {key.text}, expected one with that key and --origin {origin or key.name}")
        if wrong := _changed(folder, found):
            raise Refused(wrong[0])
    files: dict[str, bytes] = {}
    if wanted := _unlogged(folder, found):
        entries = (*raw, *(entry.encode() for entry in wanted))
        state = Checkpoint(key.name, len(entries), tlog.root_of([tlog.leaf_hash(entry) for entry in entries]))
        files = {f"{FOLDER}/{path}": data for path, data in tlog.tiles(entries).items()}
        note = f"{state.text}\n{key.line(signer.sign(state.text.encode()))}".encode()
        files |= {KEY: f"{key.text}\n".encode(), CHECKPOINT: note}
        found = Log(key, note, entries)
    return {} if found is None else files | _new_proofs(folder, found)


def cosigned(folder: Path, log: Log, lines: Sequence[str]) -> dict[str, bytes]:
    """What to write, in this order, when witnesses cosigned the newest checkpoint: their lines, and proofs under it.

    No key of the log is needed. ``EvidenceError`` if the checkpoint would have more signatures than a note may.
    """
    note = log.checkpoint + "".join(lines).encode()
    Note.decode(note)
    return {CHECKPOINT: note, **_new_proofs(folder, Log(log.key, note, log.raw))}


def _new_proofs(folder: Path, log: Log) -> dict[str, bytes]:
    """The proofs to write next to releases: where no valid one is, or the newest checkpoint has more signatures.

    So a checkpoint that witnesses cosigned after it was written comes into the proofs.
    """
    signed = len(Note.decode(log.checkpoint).signatures)
    found = {}
    for path, beside in _proven_paths(log):
        try:
            proof = _stapled(folder, path, beside, log)
        except EvidenceError:
            proof = None
        if proof is None or len(Note.decode(proof.checkpoint).signatures) < signed:
            found[beside] = prove(log, path).encode()
    return found


def _proven_paths(log: Log) -> Iterator[tuple[str, str]]:
    """Each logged release, with the path of its proof."""
    for path in log.last:
        if path.endswith(f"/{RELEASE_FILE}"):
            yield path, f"{path.removesuffix(RELEASE_FILE)}{PROOF_FILE}"


def _stapled(folder: Path, path: str, beside: str, log: Log) -> Proof | None:
    """The proof next to a release; None if there is none, ``EvidenceError`` if it does not prove it in this log."""
    data = fetch_from(folder)(beside, tlog.MAX_PROOF)
    if data is None:
        return None
    proof = Proof.decode(data)
    index, sha256 = log.last[path]
    state = proof.check(Entry(path, sha256).encode(), log.key)
    if proof.index != index or state.size > len(log.raw) or log.root(state.size) != state.root:
        raise EvidenceError(f"proof: it is under a checkpoint of {state.size} entries that this log never had")
    return proof


def prove(log: Log, path: str) -> Proof:
    """The proof that ``path`` is in the log as its newest entry says; ``Refused`` if it was never logged."""
    found = log.last.get(path)
    if found is None:
        raise Refused(f"{path} is not in the log of {log.key.name}", hint="`privml-build log append` adds it")
    index, sha256 = found
    proof = Proof(index, tlog.inclusion(log.rows[0], index), log.checkpoint)
    proof.check(Entry(path, sha256).encode(), log.key)
    return proof


def check(folder: Path, path: str, proof: Proof, key: NoteKey | None = None) -> tuple[int, Checkpoint]:
    """The number and checkpoint by which ``proof`` shows ``path``, as it is in ``folder``, in the log of ``key``.

    ``key`` is what the caller expects, else the log's own copy. ``EvidenceError`` if the proof does not show it.
    """
    sha256 = _digest(folder, path)
    if sha256 is None:
        raise UsageError(f"{folder / path}: no such file, expected what the proof is about")
    return proof.index, proof.check(Entry(path, sha256).encode(), _own_key(folder) if key is None else key)


@dataclass
class Findings:
    """What is ``wrong``, what `append` would add (``unlogged``), one line each; and the files that were read."""

    wrong: list[str] = field(default_factory=list)
    unlogged: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)


def audit(folder: Path, log: Log, since: Checkpoint | None = None) -> Findings:
    """Compare a log with its repository, and with a checkpoint ``since`` that somebody kept."""
    found = Findings(_changed(folder, log), [f"{entry.path}: not in the log" for entry in _unlogged(folder, log)])
    if since is not None and (since.size > len(log.raw) or log.root(since.size) != since.root):
        found.wrong.append(
            f"{CHECKPOINT}: got {len(log.raw)} entries that do not continue the checkpoint of {since.size} entries"
        )
    for path, beside in _proven_paths(log):
        found.known.add(beside)
        try:
            if _stapled(folder, path, beside, log) is None:
                found.unlogged.append(f"{beside}: no such file")
        except EvidenceError as error:
            found.wrong.append(f"{beside}: {error.message}")
    found.known |= {CHECKPOINT, KEY}
    for path in sorted(set(_files(folder, FOLDER)) - found.known):
        if _is_tile(folder, path, log):
            found.known.add(path)
        else:
            found.wrong.append(f"{path}: not a part of the log")
    return found


def _is_tile(folder: Path, path: str, log: Log) -> bool:
    """True for a tile or bundle of the log, as it is now or as it was when the log was shorter."""
    match = _TILE.fullmatch(path)
    if match is None:
        return False
    kind, width = match[1], int(match[3] or tlog.TILE)
    at = int("".join(re.findall(r"\d{3}", match[2]))) * tlog.TILE
    if kind == "entries":
        expected, there = tlog.bundle_of(log.raw[at : at + width]), len(log.raw)
    else:
        row = log.rows[int(kind)] if int(kind) < len(log.rows) else []
        expected, there = b"".join(row[at : at + width]), len(row)
    return width > 0 and at + width <= there and read_start(folder / path, len(expected)) == expected


def _changed(folder: Path, log: Log) -> list[str]:
    """Files that stay as they were published, and are not what was logged."""
    wrong = []
    seen: dict[str, bytes] = {}
    for entry in log.entries:
        if entry.changes:
            continue
        if seen.setdefault(entry.path, entry.sha256) != entry.sha256:
            wrong.append(f"{entry.path}: logged twice with different bytes")
    for path, sha256 in seen.items():
        if (got := _digest(folder, path)) != sha256:
            what = "gone" if got is None else f"got sha256 {got.hex()}"
            wrong.append(f"{path}: {what}, expected {sha256.hex()} as it was logged")
    return wrong


def _unlogged(folder: Path, log: Log | None) -> list[Entry]:
    """What is not in the log as it is now, in the order in which it is logged."""
    known = {} if log is None else {path: sha256 for path, (_, sha256) in log.last.items()}
    found = []
    for path in _logged_paths(folder):
        digest = _digest(folder, path)
        if digest is not None and known.get(path) != digest:
            found.append(Entry(path, digest))
    return found


def _logged_paths(folder: Path) -> Sequence[str]:
    found = [(rank, path) for path in _files(folder) if (rank := order(path)) is not None]
    return [path for _, path in sorted(found)]


def _digest(folder: Path, path: str) -> bytes | None:
    data = fetch_from(folder)(path, MAX_ENVELOPE)
    return None if data is None else hashlib.sha256(data).digest()


def _files(folder: Path, below: str = ".") -> list[str]:
    place = folder / below
    return [path.relative_to(folder).as_posix() for path in place.rglob("*") if path.is_file() or path.is_symlink()]
