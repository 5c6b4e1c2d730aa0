"""What this user has seen of published measurements, so that no older index is ever accepted again.

One file for each trusted root, ``$XDG_STATE_HOME/privml-build/trust/SHA256.json`` (``~/.local/state`` by default).
It is never silently taken as empty: a named directory that is missing, one that cannot be written, and a damaged file
are errors (exit 5). Only the default directory is made, and a verdict says when a root was first used.
"""

from __future__ import annotations

import os
from pathlib import Path

from privml.base.errors import EvidenceError, HostError
from privml.base.files import read_start, write_atomic
from privml.statement.update import MAX_MEMORY, Memory

HOME = "XDG_STATE_HOME"
_HINT = "name a directory that stays and that you may write with --trust-state DIR"


class Memories:
    """The memories in ``folder``; None means the default one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = _default() if folder is None else _existing(folder, "--trust-state")
        self._read: dict[str, Memory] = {}

    def read(self, root: str) -> Memory:
        """What was seen under a root (hex SHA-256 of its file); empty before its first use."""
        path = self._path(root)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise HostError(f"{self._folder} cannot be written, and what was seen must be kept there", hint=_HINT)
        try:
            found = Memory.decode(read_start(path, MAX_MEMORY), str(path))
        except FileNotFoundError:
            return Memory()
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror or error}", hint=_HINT) from error
        except EvidenceError as error:
            raise HostError(
                f"{path} is damaged: {error.message}",
                hint="restore it; without it, an older index than those seen would be accepted once",
            ) from error
        self._read[root] = found
        return found

    def write(self, root: str, memory: Memory) -> None:
        """Keep what was seen now. Another process may have kept newer versions meanwhile: each number only rises."""
        if memory == self._read.get(root, Memory()):
            return
        memory = newest(memory, self.read(root))
        path = self._path(root)
        try:
            write_atomic(path, memory.encode(), mode=0o600)
        except OSError as error:
            raise HostError(f"{path} cannot be written: {error.strerror or error}", hint=_HINT) from error

    def _path(self, root: str) -> Path:
        return self._folder / f"{root}.json"


def newest(made: Memory, kept: Memory) -> Memory:
    """``made`` without falling behind ``kept``, unless the root that replaced the online keys makes it forget."""
    minimum = {**kept.minimum, **{name: max(n, kept.minimum.get(name, 0)) for name, n in made.minimum.items()}}
    if made.root < kept.root:
        return Memory(kept.root, kept.online, kept.timestamp, kept.snapshot, kept.roles, minimum)
    if made.online != kept.online:
        return Memory(made.root, made.online, made.timestamp, made.snapshot, made.roles, minimum)
    roles = {**kept.roles, **{name: max(n, kept.roles.get(name, 0)) for name, n in made.roles.items()}}
    timestamp, snapshot = max(made.timestamp, kept.timestamp), max(made.snapshot, kept.snapshot)
    return Memory(made.root, made.online, timestamp, snapshot, roles, minimum)


def _default() -> Path:
    named = os.environ.get(HOME, "")
    if named:
        base = _existing(Path(named), f"${HOME}")
    else:
        base = _existing(Path.home(), "your home directory") / ".local/state"
    folder = base / "privml-build/trust"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{folder} cannot be made: {error.strerror or error}", hint=_HINT) from error
    return folder


def _existing(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        raise HostError(f"{what}: {folder} is not a directory, and what was seen must be kept there", hint=_HINT)
    return folder
