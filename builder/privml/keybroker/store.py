"""A broker's store: one sqlite file, used by one process at a time.

The root (32 random bytes, one generation at a time) is wrapped by a key that is not in the file (`keybroker.kek`).
Every other secret is wrapped under a key derived from the root. A MAC under another such key covers every row, the
tables' definitions and the head of the log, so whoever can only write the file can change nothing. Each change writes
its log entry and the MAC in the same transaction, is synced to disk, and then pinned (`keybroker.head`), before
anybody gets an answer.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privml.base.errors import HostError, UsageError
from privml.base.strictjson import canonical
from privml.keybroker import database
from privml.keybroker import head as heads
from privml.keybroker import kek as keks
from privml.keybroker.database import SCHEMA, beside, connect, locked, remove, transaction, writing
from privml.keybroker.entry import ADMIN, START, Entry, digest, parse
from privml.keybroker.head import STORE_ID_SIZE, Head
from privml.keybroker.kek import Ask, Kek
from privml.keybroker.tree import Tree

FORMAT = b"privml-broker-store/v1"
ROOT_SIZE = 32
_SALT_SIZE = 32
SIGNING = "signing"
VOLUME = "volume"
_STATE = "state"


@dataclass
class Store:
    """An open store. Its methods may be called from any thread; `changing` makes one change at a time."""

    path: Path
    head_path: Path
    db: sqlite3.Connection
    id: bytes
    development: bool
    kek: Kek
    root_generation: int
    root: bytes = field(repr=False)
    tree: Tree
    last: bytes
    mutex: threading.RLock = field(default_factory=threading.RLock)

    @property
    def head(self) -> Head:
        """What is pinned after a change."""
        return Head(self.id, self.root_generation, self.tree.head)

    @contextlib.contextmanager
    def changing(self, *entries: Entry) -> Iterator[list[Entry]]:
        """Check the store, make a change and log ``entries`` in one transaction, and pin it.

        Yields a list to which the block adds entries that depend on what it reads; without any, it changes nothing.
        Nothing is changed if the block fails. ``HostError``: `store-full` if it cannot be written, `store-changed` as
        of `check`.
        """
        logged = list(entries)
        with self.mutex:
            with writing(self.path), transaction(self.db):
                if self.tree.size:  # a store that is being made has no MAC yet
                    self.check()
                before = self.db.total_changes
                yield logged
                if not logged and self.db.total_changes != before:
                    raise AssertionError("a change of the store without an entry in its log")
                tree, last = self._log(logged)
                if logged:
                    self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_STATE, self._mac(tree)))
            if logged:
                self.tree, self.last = tree, last
                heads.write(self.head_path, self.head)

    def check(self) -> None:
        """``HostError`` (`store-changed`) if anybody without the root changed anything in the file."""
        try:
            row = self.db.execute("SELECT value FROM meta WHERE name = ?", (_STATE,)).fetchone()
            same = row is not None and hmac.compare_digest(bytes(row[0]), self._mac(self.tree))
        except (ValueError, TypeError, sqlite3.DatabaseError):  # values that are never written here
            same = False
        if not same:
            raise HostError(
                f"store-changed: {self.path} has rows or log entries that this broker did not write",
                hint="nothing of it is used: find out who can write the file, and restore the store from its backup",
            )

    def _mac(self, tree: Tree) -> bytes:
        """The MAC over everything but the secrets' own plaintext, with ``tree`` for the log."""
        found = hmac.new(_derived(self.root, b"", canonical({"use": _STATE})), digestmod="sha256")
        found.update(canonical({"size": tree.size, "root": tree.head.root.hex()}))
        for row in database.covered(self.db):
            found.update(b"\n" + canonical(row))
        return found.digest()

    def _log(self, entries: Sequence[Entry]) -> tuple[Tree, bytes]:
        tree, last = self.tree.copy(), self.last
        for entry in entries:
            line = entry.line(tree.size, last)
            parse(line, tree.size, last)  # what could not be read again must not get into the log
            self.db.execute("INSERT INTO log VALUES (?, ?)", (tree.size, line))
            tree.append(line)
            last = digest(line)
        return tree, last

    def lines(self) -> Iterator[bytes]:
        """The lines of the log, from the first."""
        return database.lines(self.db)

    def keep(self, use: str, resource: str, generation: int, secret: bytes) -> None:
        """Keep a secret, wrapped; only while `changing`."""
        salt = os.urandom(_SALT_SIZE)
        info = _info(use, resource, generation)
        sealed = keks.seal(_derived(self.root, salt, info), secret, info)
        self.db.execute(
            "INSERT OR REPLACE INTO secret VALUES (?, ?, ?, ?, ?)", (use, resource, generation, salt, sealed)
        )

    def secret(self, use: str, resource: str, generation: int) -> bytes:
        """A secret; ``HostError`` (`store-damaged`) if it is not there, or does not open."""
        with self.mutex:
            row = self.db.execute(
                "SELECT salt, sealed FROM secret WHERE use = ? AND resource = ? AND generation = ?",
                (use, resource, generation),
            ).fetchone()
        info = _info(use, resource, generation)
        salt, sealed = row or (b"", b"")
        try:
            return keks.unseal(_derived(self.root, salt, info), sealed, info)
        except InvalidTag:
            raise HostError(
                f"store-damaged: the {use} key {resource} {generation} does not open".replace("  ", " "),
                hint="restore the store from its backup",
            ) from None

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        """The broker's key, which signs releases."""
        return Ed25519PrivateKey.from_private_bytes(self.secret(SIGNING, "", 1))

    @property
    def public(self) -> bytes:
        """The broker's public key (32 bytes), which recipes name."""
        return self.signing_key.public_key().public_bytes_raw()

    def rotate(self, kek: Kek | None = None) -> None:
        """Replace the root: wrap every secret again under a new one, and destroy the old one, in one transaction.

        ``kek`` wraps the new root; None keeps the present one.
        """
        with self.mutex:
            old = (self.root, self.root_generation, self.kek)
            try:
                with self.changing(Entry(ADMIN, codes=("rotate-root" if kek is None else "rotate-kek",))):
                    rows = self.db.execute("SELECT use, resource, generation FROM secret").fetchall()
                    opened = [(*row, self.secret(*row)) for row in rows]
                    self.root, self.root_generation = os.urandom(ROOT_SIZE), self.root_generation + 1
                    self.kek = kek or self.kek
                    for row in opened:
                        self.keep(*row)
                    self.db.execute("DELETE FROM root")
                    _put_root(self.db, self.kek, self.root_generation, self.root)
            except BaseException:
                if self._stored_generation() == old[1]:
                    self.root, self.root_generation, self.kek = old
                raise
            self.forget()

    def _stored_generation(self) -> int:
        return int(self.db.execute("SELECT generation FROM root").fetchone()[0])

    def forget(self) -> None:
        """Overwrite what was deleted, also in the write-ahead log."""
        with self.mutex, writing(self.path):
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def snapshot(self) -> bytes:
        """The content of the sqlite file, with every change."""
        with self.mutex:
            self.forget()
            return self.db.serialize()


def _info(use: str, resource: str, generation: int) -> bytes:
    return canonical({"use": use, "resource": resource, "generation": generation})


def _derived(root: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), keks.KEY_SIZE, salt, info).derive(root)


def _put_root(db: sqlite3.Connection, kek: Kek, generation: int, root: bytes) -> None:
    db.execute("INSERT INTO root VALUES (?, ?)", (generation, kek.wrap(root, _root_label(generation))))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('kek', ?)", (canonical(dict(kek.parameters)),))


def _root_label(generation: int) -> bytes:
    return canonical({"use": "root", "generation": generation})


def refuse_existing(path: Path) -> None:
    """``UsageError`` if there is a store at ``path``: none is ever overwritten."""
    if os.path.lexists(path):
        raise UsageError(
            f"store-exists: {path} is there already",
            hint="name another path: a store is never overwritten, because its keys would be lost",
        )


@contextlib.contextmanager
def create(path: Path, kek: Kek, *, development: bool = False, head: Path | None = None) -> Iterator[Store]:
    """Make a store at ``path``, which must not exist. ``development`` allows to release to simulated guests."""
    refuse_existing(path)
    with locked(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(connect(path)) as db:
            store = Store(
                path,
                head or beside(path, "head"),
                db,
                secrets.token_bytes(STORE_ID_SIZE),
                development,
                kek,
                1,
                os.urandom(ROOT_SIZE),
                Tree(),
                START,
            )
            try:
                _fill(store)
            except BaseException:
                remove(path)
                raise
            yield store


def _fill(store: Store) -> None:
    """The tables of a new store, its root and its signing key."""
    with writing(store.path):
        store.db.executescript(SCHEMA)
    with store.changing(Entry(ADMIN, codes=("init-development" if store.development else "init",))):
        meta = {"format": FORMAT, "id": store.id, "development": b"\1" if store.development else b"\0"}
        store.db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        _put_root(store.db, store.kek, store.root_generation, store.root)
        store.keep(SIGNING, "", 1, Ed25519PrivateKey.generate().private_bytes_raw())


@contextlib.contextmanager
def opened(
    path: Path, kek: str, *, ask: Ask | None = None, head: Path | None = None, pinned: bool = True
) -> Iterator[Store]:
    """Open the store at ``path`` with the key that the URI ``kek`` names.

    ``Refused`` for a wrong key, and for a store or log that is older than the one last pinned; ``HostError``
    (`store-changed`) for one that somebody without the key changed. With ``pinned`` false, the pinned head is not
    compared: only for checking a log of which it was lost.
    """
    if not path.is_file():
        raise UsageError(f"there is no store at {path}", hint="make one with `privml-build keys init --store FILE`")
    path = path.resolve()
    with locked(path), contextlib.closing(connect(path)) as db:
        store = _read(path, db, kek, ask, head or beside(path, "head"))
        before = _compare(store) if pinned else store.head
        store.check()
        if before != store.head:  # a crash came before the pinning
            heads.write(store.head_path, store.head)
        yield store


def _read(path: Path, db: sqlite3.Connection, kek_uri: str, ask: Ask | None, head: Path) -> Store:
    try:
        meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("format") != FORMAT:
            raise UsageError(f"{path} is not a store of this version of privml-build")
        generation, wrapped = db.execute("SELECT generation, wrapped FROM root").fetchone()
        # Of a crash after a rotation's commit: what was destroyed may still be in the write-ahead log.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        tree, last = Tree(), START
        for line in database.lines(db):
            tree.append(line)
            last = digest(line)
    except (sqlite3.DatabaseError, TypeError) as error:
        raise HostError(f"{path} is not a store: {error}") from error
    kek = keks.open_kek(kek_uri, json.loads(meta["kek"]), ask)
    root = kek.unwrap(wrapped, _root_label(generation))
    return Store(path, head, db, meta["id"], meta["development"] == b"\1", kek, generation, root, tree, last)


def _compare(store: Store) -> Head:
    """The pinned head; ``Refused`` if the store does not continue it."""
    pinned = heads.read(store.head_path)
    root_at: bytes | None = store.tree.head.root
    if pinned.log.size < store.tree.size:
        tree = Tree(line for _, line in zip(range(pinned.log.size), store.lines(), strict=False))
        root_at = tree.head.root
    elif pinned.log.size > store.tree.size:
        root_at = None
    heads.compare(pinned, store.head, root_at)
    return pinned
