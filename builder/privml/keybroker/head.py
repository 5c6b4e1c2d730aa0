"""The file in which a broker pins how far its store has come, so that an older copy of the store is recognised.

It is next to the store, or better on another disk. It is written after each change, before the change's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import EvidenceError, HostError, Refused
from privml.base.files import read_start, write_atomic
from privml.base.strictjson import Fields, canonical, loads
from privml.channel.release import LogHead

FORMAT = "privml-broker-head/v1"
STORE_ID_SIZE = 16
_MAX = 4096


@dataclass(frozen=True)
class Head:
    """Whose head it is (16 bytes), the generation of the store's root, and the head of its log."""

    store: bytes
    root_generation: int
    log: LogHead

    def encode(self) -> bytes:
        """The file's content."""
        return canonical(
            {
                "format": FORMAT,
                "store": self.store.hex(),
                "root_generation": self.root_generation,
                "log": {"size": self.log.size, "root": self.log.root.hex()},
            }
        )

    @classmethod
    def decode(cls, data: bytes, what: str) -> Head:
        """Read a file's content; ``EvidenceError`` if it is malformed."""
        fields = Fields(loads(data, what=what, limit=_MAX), what)
        fields.text("format", one_of=(FORMAT,))
        store, generation = fields.hexadecimal("store", STORE_ID_SIZE), fields.integer("root_generation", low=1)
        log = fields.fields("log")
        head = cls(store, generation, LogHead(log.integer("size"), log.hexadecimal("root", 32)))
        log.end()
        fields.end()
        return head


def write(path: Path, head: Head) -> None:
    """Pin ``head``; ``HostError`` if the file cannot be written."""
    try:
        write_atomic(path, head.encode(), mode=0o600)
    except OSError as error:
        raise HostError(
            f"store-full: {path} cannot be written: {error.strerror or error}",
            hint="nothing is released until it can be: free some space",
        ) from error


def read(path: Path) -> Head:
    """The pinned head; ``Refused`` (`head-missing`) if there is none."""
    try:
        data = read_start(path, _MAX)
    except FileNotFoundError as error:
        raise Refused(
            f"head-missing: there is no {path}, so nothing says whether the store is the newest",
            hint="name it with --head; if it is lost, check the log and pin it: `privml-build keys log verify --pin`",
        ) from error
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return Head.decode(data, str(path))
    except EvidenceError as error:
        raise Refused(f"head-malformed: {error.message}", hint="restore the file, or pin the log again") from error


def compare(pinned: Head, found: Head, root_at: bytes | None) -> None:
    """``Refused`` if the store with head ``found`` is not at least as new as ``pinned``.

    ``root_at`` is the root of its log's first entries, as many as are pinned; None if there are fewer.
    """
    if pinned.store != found.store:
        raise Refused(f"head-store: the pinned head is of store {pinned.store.hex()}, not {found.store.hex()}")
    if found.root_generation < pinned.root_generation:
        raise Refused(
            f"store-older: its root is generation {found.root_generation}, expected {pinned.root_generation}",
            hint="this is a copy from before a rotation: use the newest store",
        )
    if root_at is None:
        raise Refused(
            f"log-cut: {found.log.size} entries, expected at least {pinned.log.size}",
            hint="the store is an old copy, or entries were removed: use the newest store",
        )
    if root_at != pinned.log.root:
        raise Refused(
            f"log-head: the first {pinned.log.size} entries have root {root_at.hex()}, "
            f"expected {pinned.log.root.hex()}",
            hint="the log is not a continuation of the one that was pinned",
        )
