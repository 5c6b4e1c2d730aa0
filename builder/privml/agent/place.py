"""How far the attestor has come, in a file that only root can read, so that a restarted attestor goes on from there.

The file is on a tmpfs: it is gone with the boot that it describes. It is replaced before each step. If the attestor
ends between a line of the log and its register, the log is one line ahead, and the restarted attestor parks.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError
from privml.base.files import write_atomic
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.events.agent import MAX_EVENTS, MAX_PAYLOAD

_FORMAT = "privml-place/v1"
_MAX_REASON = 1000
_MAX_LOG = MAX_EVENTS * 2 * MAX_PAYLOAD
_MAX_FILE = 3 * _MAX_LOG


@dataclass(frozen=True)
class Place:
    """The stage (its number in the table), how many of its events are left, the keys section, the log.

    ``failed`` says why nothing may be quoted any more; empty while something may.
    """

    tee: str
    left: int
    at: int = 0
    keys: bytes | None = None
    log: bytes = b""
    failed: str = ""

    @property
    def seq(self) -> int:
        """The number of the log's next line."""
        return self.log.count(b"\n")

    def encode(self) -> bytes:
        """The place as one line."""
        value: dict[str, Any] = {
            "format": _FORMAT,
            "tee": self.tee,
            "at": self.at,
            "left": self.left,
            "keys": None if self.keys is None else b64(self.keys),
            "log": b64(self.log),
            "failed": self.failed[:_MAX_REASON],
        }
        return canonical(value) + b"\n"


def decode(data: bytes) -> Place:
    """Read a place; ``EvidenceError`` for anything that is not one."""
    fields = Fields(loads(data, what="place", limit=_MAX_FILE), "place")
    fields.text("format", one_of=(_FORMAT,))
    keys = fields.take("keys")
    place = Place(
        tee=fields.text("tee", limit=64),
        at=fields.integer("at", high=MAX_EVENTS),
        left=fields.integer("left", high=MAX_EVENTS),
        keys=None if keys is None else _section(keys),
        log=fields.base64("log", limit=_MAX_LOG),
        failed=fields.text("failed", limit=_MAX_REASON),
    )
    fields.end()
    if place.encode() != data:
        raise EvidenceError("place: not canonical JSON (RFC 8785)")
    return place


def _section(value: object) -> bytes:
    return Fields({"keys": value}, "place").base64("keys", limit=MAX_PAYLOAD)


class PlaceFile:
    """The file with the place. ``owner`` is the uid that alone may have written it."""

    def __init__(self, path: Path, owner: int) -> None:
        self._path = path
        self._owner = owner

    def save(self, place: Place) -> None:
        """Replace the place."""
        write_atomic(self._path, place.encode(), mode=0o600)

    def load(self) -> Place | None:
        """The place that was saved last in this boot; None if there is none, an error if it cannot be trusted."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or (found.st_uid, found.st_mode & 0o777) != (self._owner, 0o600):
                raise HostError("place: expected a regular file of the attestor's user with mode 0600")
            return decode(file.read(_MAX_FILE + 1))
