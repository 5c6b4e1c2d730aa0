"""Transparency logs as C2SP has them: the tree of RFC 6962, tiles, checkpoints as signed notes, proofs of inclusion.

Pure: lists of hashes and bytes in, bytes and records out. Sources: https://c2sp.org/tlog-tiles,
https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature and
https://c2sp.org/tlog-proof.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import b64, unb64
from privml.base.times import MAX_TIME
from privml.statement.keys import ED25519_PREFIX, PublicKey

TILE = 256
"""The hashes of a whole tile, and the entries of a whole bundle."""
MAX_ENTRY = (1 << 16) - 1
MAX_ENTRIES = 1 << 20
MAX_NOTE = 1 << 16
MAX_SIGNATURES = 100
PROOF_HEAD = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
MAX_PROOF = MAX_NOTE + 4096
LOG_KIND = 1
WITNESS_KIND = 4
KINDS = {LOG_KIND: "Ed25519 over the text", WITNESS_KIND: "Ed25519 cosignature v1"}
"""What each kind of key signs."""
_NAME = re.compile(r"[!-*,-~]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_DASH = "\u2014 "


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over these leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    # An odd last node is promoted, which gives the tree of RFC 6962 from the bottom up.
    while len(level) > 1:
        paired = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def inclusion(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The proof, from the leaf up, that leaf ``index`` is in the tree over ``leaves``."""
    found: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            found.append(level[sibling])
        paired = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
        index //= 2
    return tuple(found)


def includes(root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """True if ``proof`` shows the hash ``leaf`` to be number ``index`` of ``size`` leaves under ``root``."""
    if not 0 <= index < size or len(leaf) != 32:
        return False
    found, last, rest = leaf, size - 1, list(proof)
    while last > 0:
        if index % 2 or index < last:
            if not rest:
                return False
            sibling = rest.pop(0)
            found = node_hash(sibling, found) if index % 2 else node_hash(found, sibling)
        index, last = index // 2, last // 2
    return not rest and found == root


def consistency(leaves: Sequence[bytes], before: int) -> tuple[bytes, ...]:
    """The proof (RFC 6962, 2.1.2) that the tree over ``leaves`` continues the one over the first ``before`` of them.

    It is empty for none and for all of them.
    """
    return _subproof(leaves, before, whole=True) if before else ()


def _subproof(leaves: Sequence[bytes], before: int, *, whole: bool) -> tuple[bytes, ...]:
    """The hashes for a subtree; with ``whole`` its first ``before`` leaves are all of the earlier tree."""
    if before == len(leaves):
        return () if whole else (root_of(leaves),)
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:split], leaves[split:]
    if before <= split:
        return (*_subproof(left, before, whole=whole), root_of(right))
    return (*_subproof(right, before - split, whole=False), root_of(left))


def rows_of(entries: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes of each level of tiles: leaves, then roots of 256 leaves, of 256 of those, and so on."""
    rows, row = [], [leaf_hash(entry) for entry in entries]
    while row:
        rows.append(row)
        row = [root_of(row[at : at + TILE]) for at in range(0, len(row) - TILE + 1, TILE)]
    return rows


def bundle_of(entries: Sequence[bytes]) -> bytes:
    """The bundle of these entries."""
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def tiles(entries: Sequence[bytes]) -> dict[str, bytes]:
    """The tiles and bundles of a log, by path: whole ones, and the partial one at the right edge of each level."""
    found = {f"tile/entries/{path}": bundle_of(entries[at:end]) for path, at, end in _rows(len(entries))}
    for level, row in enumerate(rows_of(entries)):
        found |= {f"tile/{level}/{path}": b"".join(row[at:end]) for path, at, end in _rows(len(row))}
    return found


def _rows(length: int) -> list[tuple[str, int, int]]:
    """Path, start and end of each tile of a row of ``length``."""
    found = []
    for at in range(0, length, TILE):
        end = min(at + TILE, length)
        whole = f"{at // TILE:03}"
        groups = [whole[max(0, cut - 3) : cut].zfill(3) for cut in range(len(whole), 0, -3)][::-1]
        path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        found.append((path if end - at == TILE else f"{path}.p/{end - at}", at, end))
    return found


def entries_of(bundles: dict[str, bytes], size: int) -> tuple[bytes, ...]:
    """The entries of a log of ``size``, from `bundle_paths`; ``EvidenceError`` if a bundle has others."""
    found: list[bytes] = []
    for path, at, end in _rows(size):
        data, place = bundles[f"tile/entries/{path}"], 0
        for _ in range(at, end):
            length = int.from_bytes(data[place : place + 2])
            entry = data[place + 2 : place + 2 + length]
            if len(data) < place + 2 or len(entry) != length:
                raise EvidenceError(
                    f"tile/entries/{path}: it ends in entry {len(found)}, expected {end - at} entries"
                )
            found.append(entry)
            place += 2 + length
        if place != len(data):
            raise EvidenceError(f"tile/entries/{path}: {len(data) - place} bytes after its {end - at} entries")
    return tuple(found)


def bundle_paths(size: int) -> list[str]:
    """The paths of the bundles of a log of ``size``."""
    return [f"tile/entries/{path}" for path, _, _ in _rows(size)]


@dataclass(frozen=True)
class NoteKey:
    """An Ed25519 key that signs notes: its name, the raw public key, and its kind, one of `KINDS`."""

    name: str
    key: bytes
    kind: int = LOG_KIND

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EvidenceError("key of a note: its name is not 1 to 200 visible ASCII characters without `+`")
        if len(self.key) != 32:
            raise EvidenceError(f"key of a note: {len(self.key)} bytes, expected the 32 of an Ed25519 key")

    @property
    def keyid(self) -> bytes:
        """The four bytes by which signatures name this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]

    @property
    def text(self) -> str:
        """The key in a line, as `decode` reads it."""
        return f"{self.name}+{self.keyid.hex()}+{b64(bytes([self.kind]) + self.key)}"

    @classmethod
    def decode(cls, text: str, kind: int = LOG_KIND) -> NoteKey:
        """Read ``NAME+ID+KEY``; ``EvidenceError`` if it is not a key of this kind."""
        name, _, rest = text.partition("+")
        keyid, _, encoded = rest.partition("+")
        data = unb64(encoded, what="key of a note", limit=64)
        if data[:1] != bytes([kind]):
            raise EvidenceError(f"key of a note: not of kind {kind} ({KINDS[kind]})")
        found = cls(name, data[1:], kind)
        if found.keyid.hex() != keyid:
            raise EvidenceError(f"key of a note: it is {found.keyid.hex()}, not `{keyid[:80]}`")
        return found

    def line(self, signature: bytes) -> str:
        """The line of a note with this key's signature."""
        return f"{_DASH}{self.name} {b64(self.keyid + signature)}\n"

    def verifies(self, signature: bytes, text: str) -> bool:
        """True if ``signature`` is this key's of a note's text; that of a witness begins with its time."""
        signed = text.encode()
        if self.kind == WITNESS_KIND:
            at, signature = int.from_bytes(signature[:8]), signature[8:]
            signed = cosigned_text(at, text)
            if at > MAX_TIME:
                return False
        return PublicKey(ED25519_PREFIX + self.key).verifies(signature, signed)


def cosigned_text(at: int, text: str) -> bytes:
    """What a witness signs at a time (Unix seconds) of a note's text."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


@dataclass(frozen=True)
class Note:
    """A signed note: its text, and the signatures as (name, id of the key with the signature after it)."""

    text: str
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """Read a note; ``EvidenceError`` if it is malformed. Signatures are not checked."""
        if len(data) > MAX_NOTE:
            raise EvidenceError(f"note: more than {MAX_NOTE} bytes")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise EvidenceError("note: not UTF-8") from error
        if any(ord(character) < 0x20 and character != "\n" for character in whole):
            raise EvidenceError("note: it has a control character")
        text, blank, signatures = whole.rpartition("\n\n")
        lines = signatures.split("\n")
        if not blank or lines.pop() != "" or not 1 <= len(lines) <= MAX_SIGNATURES:
            raise EvidenceError(f"note: no blank line with 1 to {MAX_SIGNATURES} signatures after it")
        found = []
        for line in lines:
            name, _, encoded = line.removeprefix(_DASH).partition(" ")
            signature = unb64(encoded, what="signature of a note", limit=MAX_NOTE)
            if not line.startswith(_DASH) or not _NAME.fullmatch(name) or len(signature) < 5:
                raise EvidenceError("note: a line after the blank one is not a signature")
            found.append((name, signature))
        return cls(f"{text}\n", tuple(found))

    @property
    def first_line(self) -> str:
        """The first line of the text: the origin of a checkpoint."""
        return self.text.partition("\n")[0]

    def of(self, key: NoteKey) -> tuple[bytes, ...]:
        """What is signed in the name of ``key``, unchecked."""
        return tuple(data[4:] for name, data in self.signatures if (name, data[:4]) == (key.name, key.keyid))

    def signed_by(self, key: NoteKey) -> bool:
        """True if ``key`` signed; ``EvidenceError`` if what is signed in its name is not its one signature."""
        found = self.of(key)
        if len(found) > 1:
            raise EvidenceError(f"note: {len(found)} signatures by {key.text}, expected one")
        if found and not key.verifies(found[0], self.text):
            raise EvidenceError(f"note: the signature of {key.name} is not that of its key")
        return bool(found)


def signed_text(data: bytes, key: NoteKey) -> str:
    """The text of a signed note; ``EvidenceError`` if it is malformed, or not signed by ``key``.

    Signatures by other keys are ignored, as witnesses add theirs.
    """
    note = Note.decode(data)
    if not note.signed_by(key):
        raise EvidenceError(f"note: 0 signatures by {key.text}, expected one")
    return note.text


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log: its origin (its name), how many entries it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"

    @classmethod
    def read(cls, note: bytes, key: NoteKey) -> Checkpoint:
        """Read a checkpoint that ``key`` signed for the log of its own name; ``EvidenceError`` for another."""
        text = signed_text(note, key)
        lines = text.split("\n")
        if len(lines) != 4 or not _SIZE.fullmatch(lines[1]):
            raise EvidenceError("checkpoint: expected three lines, with origin, size and root")
        found = cls(lines[0], int(lines[1]), unb64(lines[2], what="root of a checkpoint", limit=64))
        if found.origin != key.name or len(found.root) != 32 or found.size > MAX_ENTRIES:
            raise EvidenceError(
                f"checkpoint: got origin `{found.origin[:80]}`, {found.size} entries and a root of {len(found.root)} "
                f"bytes, expected {key.name}, at most {MAX_ENTRIES}, and 32"
            )
        return found


@dataclass(frozen=True)
class Proof:
    """That an entry is in a log: its number, the hashes from the leaf up, and the checkpoint, a signed note."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """Encode as tlog-proof."""
        lines = [PROOF_HEAD, f"index {self.index}", *map(b64, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """Read a tlog-proof without extra data; ``EvidenceError`` if it is malformed."""
        if len(data) > MAX_PROOF:
            raise EvidenceError(f"proof: more than {MAX_PROOF} bytes")
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise EvidenceError("proof: not ASCII before the blank line") from error
        match = re.fullmatch(r"index (0|[1-9][0-9]{0,15})", lines[1]) if len(lines) > 1 else None
        if not blank or lines[0] != PROOF_HEAD or match is None or len(lines) > MAX_HASHES + 2:
            raise EvidenceError(f"proof: expected `{PROOF_HEAD}`, an index, hashes, a blank line and a checkpoint")
        hashes = tuple(unb64(line, what="hash of a proof", limit=64) for line in lines[2:])
        if any(len(item) != 32 for item in hashes):
            raise EvidenceError("proof: a hash is not 32 bytes")
        return cls(int(match[1]), hashes, checkpoint)

    def check(self, entry: bytes, key: NoteKey) -> Checkpoint:
        """The checkpoint under which ``entry`` is in the log of ``key``; ``EvidenceError`` if it is not proven."""
        found = Checkpoint.read(self.checkpoint, key)
        if not includes(found.root, found.size, self.index, leaf_hash(entry), self.hashes):
            raise EvidenceError(
                f"proof: it does not lead from the entry to the root of {found.origin} at {found.size}"
            )
        return found
