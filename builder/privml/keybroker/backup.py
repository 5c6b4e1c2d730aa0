"""Backups of a store: one encrypted file, under a key of its own.

    privml-broker-backup/v1 \\n || JCS({"kek": {...}, "key": b64}) \\n || sealed

``key`` is a random key wrapped by the backup's own key, ``sealed`` the store's file under it (AES-256-GCM). The
secrets in the store stay wrapped as they are, so a restored store also needs the key that it had.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag

from privml.base.errors import EvidenceError, HostError, Refused
from privml.base.files import read_start, write_atomic
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.keybroker import head as heads
from privml.keybroker import kek as keks
from privml.keybroker.database import beside, remove
from privml.keybroker.entry import ADMIN, Entry
from privml.keybroker.kek import Ask, Kek
from privml.keybroker.store import Store, opened, refuse_existing
from privml.keybroker.tree import Tree

FORMAT = b"privml-broker-backup/v1"
_START = FORMAT + b"\n"
MAX_BACKUP = 1 << 30
_MAX_HEADER = 8192


def write(store: Store, target: Path, kek: Kek) -> None:
    """Write a backup of ``store`` to ``target``, encrypted under ``kek``. It is logged first."""
    with store.changing(Entry(ADMIN, codes=("backup",))):
        pass
    key = os.urandom(keks.KEY_SIZE)
    header = canonical({"kek": dict(kek.parameters), "key": b64(kek.wrap(key, _START))})
    sealed = keks.seal(key, store.snapshot(), _START + header)
    try:
        write_atomic(target, _START + header + b"\n" + sealed, mode=0o600)
    except OSError as error:
        raise HostError(f"{target} cannot be written: {error.strerror or error}") from error


def restore(
    source: Path,
    path: Path,
    *,
    backup_kek: str,
    kek: str,
    ask: Ask | None = None,
    ask_backup: Ask | None = None,
    head: Path | None = None,
    accept_older: bool = False,
) -> None:
    """Make the store at ``path`` from a backup. There must be none.

    ``Refused`` if the backup is changed, or older than the head that is pinned there, unless ``accept_older``.
    """
    refuse_existing(path)
    data = _read(source, backup_kek, ask_backup)
    write_atomic(path, data, mode=0o600)
    where = head or beside(path, "head")
    try:
        with opened(path, kek, ask=ask, head=head, pinned=False) as store:
            if where.exists() and not accept_older:
                _compare(store)
            with store.changing(Entry(ADMIN, codes=("restore",))):
                pass
    except BaseException:
        remove(path)
        raise


def _compare(store: Store) -> None:
    pinned = heads.read(store.head_path)
    tree = Tree(line for _, line in zip(range(pinned.log.size), store.lines(), strict=False))
    try:
        heads.compare(pinned, store.head, tree.head.root if tree.size == pinned.log.size else None)
    except Refused as error:
        raise Refused(
            f"{error.message}: the backup lacks what happened since",
            hint="restore a newer backup, or accept the loss with --accept-older: releases since are not counted",
        ) from error


@dataclass(frozen=True)
class Backup:
    """A backup's parts: its key's parameters, the wrapped key, and the sealed store with what is bound to it."""

    kek: object
    key: bytes
    sealed: bytes
    bound: bytes

    @classmethod
    def decode(cls, data: bytes, what: str) -> Backup:
        """Take a file's content apart; ``EvidenceError`` if it is not a backup's. Nothing is decrypted."""
        if not data.startswith(_START) or len(data) > MAX_BACKUP:
            raise EvidenceError(f"{what}: not a backup of a key broker")
        header, found, sealed = data[len(_START) :].partition(b"\n")
        if not found:
            raise EvidenceError(f"{what}: ends in its header")
        fields = Fields(loads(header, what=what, limit=_MAX_HEADER), "backup")
        made = cls(fields.take("kek"), fields.base64("key", limit=_MAX_HEADER), sealed, _START + header)
        fields.end()
        return made


def _read(source: Path, uri: str, ask: Ask | None) -> bytes:
    """The store's file in the backup at ``source``; errors as of `restore`."""
    try:
        data = read_start(source, MAX_BACKUP)
    except OSError as error:
        raise HostError(f"{source} cannot be read: {error.strerror or error}") from error
    backup = Backup.decode(data, str(source))
    key = keks.open_kek(uri, backup.kek, ask).unwrap(backup.key, _START)
    try:
        return keks.unseal(key, backup.sealed, backup.bound)
    except InvalidTag:
        raise Refused(f"backup-changed: {source} was changed or cut") from None
