"""The sqlite file of a broker's store: its tables, changed in one transaction at a time by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from privml.base.errors import HostError

# WITHOUT ROWID makes a table one tree: looking for a row finds the rows that the MAC covers, and no others.
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE root (generation INTEGER PRIMARY KEY, wrapped BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE secret (use TEXT NOT NULL, resource TEXT NOT NULL, generation INTEGER NOT NULL, salt BLOB NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (use, resource, generation)) STRICT, WITHOUT ROWID;
CREATE TABLE resource (name TEXT PRIMARY KEY, owners BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE signed (resource TEXT NOT NULL, serial INTEGER NOT NULL, envelope BLOB NOT NULL,
  PRIMARY KEY (resource, serial)) STRICT, WITHOUT ROWID;
CREATE TABLE key (resource TEXT NOT NULL, generation INTEGER NOT NULL, value BLOB NOT NULL, retired INTEGER NOT NULL,
  PRIMARY KEY (resource, generation)) STRICT, WITHOUT ROWID;
CREATE TABLE released (resource TEXT NOT NULL, policy BLOB NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (resource, policy)) STRICT, WITHOUT ROWID;
CREATE TABLE log (seq INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
"""
_COVERED = (
    "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name",
    "SELECT name, value FROM meta WHERE name <> 'state' ORDER BY name",
    "SELECT generation, wrapped FROM root ORDER BY generation",
    "SELECT use, resource, generation, salt, sealed FROM secret ORDER BY use, resource, generation",
    "SELECT name, owners FROM resource ORDER BY name",
    "SELECT resource, serial, envelope FROM signed ORDER BY resource, serial",
    "SELECT resource, generation, value, retired FROM key ORDER BY resource, generation",
    "SELECT resource, policy, count FROM released ORDER BY resource, policy",
)
"""Everything that the MAC covers besides the head of the log, which covers table `log`."""


def beside(path: Path, ending: str) -> Path:
    """The file next to a store with this ending."""
    return path.with_name(f"{path.name}.{ending}")


def covered(db: sqlite3.Connection) -> Iterator[list[object]]:
    """Every row that the MAC covers, after the number of its query; bytes are in hex."""
    for number, query in enumerate(_COVERED):
        for row in db.execute(query):
            yield [number, *(each.hex() if isinstance(each, bytes) else each for each in row)]


def lines(db: sqlite3.Connection) -> Iterator[bytes]:
    """The lines of the log, from the first."""
    for (line,) in db.execute("SELECT line FROM log ORDER BY seq"):
        yield line


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Change the file in one transaction; nothing is changed if the block fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of sqlite into ``HostError`` (`store-full`)."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise HostError(
            f"store-full: {path} cannot be written: {error}",
            hint="nothing was changed or released: free some space, and check the disk",
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store alone; ``HostError`` (`store-busy`) if another process has it."""
    lock = beside(path, "lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{lock} cannot be made: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise HostError(
            f"store-busy: another process uses {path}",
            hint="one process may use a store: stop `keys serve` for the time of this command",
        ) from error
    finally:
        os.close(handle)


def connect(path: Path) -> sqlite3.Connection:
    """The file at ``path``, made empty if there is none; ``HostError`` if it cannot be opened."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            db.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        raise HostError(f"{path} cannot be opened: {error}") from error
    return db


def remove(path: Path) -> None:
    """Remove the files of a store that was not made whole."""
    for each in (path, beside(path, "lock"), *(path.with_name(f"{path.name}-{ending}") for ending in ("wal", "shm"))):
        each.unlink(missing_ok=True)
