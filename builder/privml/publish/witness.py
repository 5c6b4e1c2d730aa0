"""Ask witnesses to cosign a log's newest checkpoint: the call `add-checkpoint` of https://c2sp.org/tlog-witness.

A witness signs only what continues the checkpoint that it signed last. It says how many entries that one had, and
gets the proof of consistency from there. Nothing that it answers is believed but a signature by the key that the
caller's policy has for it.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, printable
from privml.base.http import Connections, base_address
from privml.base.strictjson import b64
from privml.base.times import time_text
from privml.base.wayout import WayOut, environment_way_out
from privml.publish.log import Log
from privml.statement import tlog
from privml.statement.logpolicy import LogPolicy
from privml.statement.tlog import Note, NoteKey

TIMEOUT = 30.0
"""Seconds for everything that is sent to one witness and received from it."""
_TRIES = 4
_SIZE_KIND = "text/x.tlog.size"
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,15})\n")
_MEANINGS = {
    400: "the request is malformed to it",
    403: "it knows another key of this log",
    404: "it does not know this log: ask its operator to add the log's key",
    429: "it was asked too often: ask again later",
}


@dataclass(frozen=True)
class Asked:
    """What came of a witness: its ``line`` for the checkpoint, made ``at`` a time (Unix seconds), or an objection.

    ``split`` says that the objection is about the log itself: it does not continue what the witness signed.
    ``known`` says that the line was there already.
    """

    name: str
    line: str = ""
    at: int = 0
    objection: str = ""
    split: bool = False
    known: bool = False

    def __str__(self) -> str:
        if self.objection:
            return f"{self.name}: {self.objection}"
        return f"{self.name}: cosigned {'already ' if self.known else ''}at {time_text(self.at)}"


class _Objection(Exception):
    def __init__(self, text: str, *, split: bool = False) -> None:
        super().__init__(text)
        self.split = split


def ask(log: Log, policy: LogPolicy, timeout: float = TIMEOUT) -> tuple[Asked, ...]:
    """Ask each witness of ``policy`` that has an address, one after the other, ``timeout`` seconds each at most.

    Who cosigned the checkpoint before is not asked. ``UsageError`` for an address that cannot be, ``EvidenceError``
    for a signature in the checkpoint that is not its key's.
    """
    addresses = {name: base_address(url, "witness") for name, url in policy.addresses.items()}
    way, found = environment_way_out(), []
    for name, key in policy.witnesses.items():
        if (signed := _signed(log.checkpoint, key)) is not None:
            found.append(Asked(name, *signed, known=True))
        elif name in addresses:
            found.append(_one(log, name, key, addresses[name], way, timeout))
    return tuple(found)


def _one(log: Log, name: str, key: NoteKey, url: str, way: WayOut, timeout: float) -> Asked:
    try:
        with Cutoff(timeout) as deadline, Connections(way, timeout, deadline=deadline, redirects=0) as connections:
            try:
                answer = _cosigned(log, connections, deadline, f"{url}/add-checkpoint")
            except (OSError, http.client.HTTPException) as error:
                reason = (
                    f"no complete answer within {timeout:g} s"
                    if deadline.passed
                    else printable(getattr(error, "strerror", None) or str(error)) or type(error).__name__
                )
                return Asked(name, objection=f"{url}: {reason}")
        signed = _signed(log.checkpoint + answer, key)
    except _Objection as error:
        return Asked(name, objection=f"{url}: {error}", split=error.split)
    except EvidenceError as error:
        return Asked(name, objection=f"{url}: {error.message}")
    if signed is None:
        return Asked(name, objection=f"{url}: its answer has no signature by {key.text}")
    return Asked(name, *signed)


def _signed(checkpoint: bytes, key: NoteKey) -> tuple[str, int] | None:
    """The line and the time of a witness's signature; None if there is none, ``EvidenceError`` if it is not good."""
    note = Note.decode(checkpoint)
    if not note.signed_by(key):
        return None
    signature = note.of(key)[0]
    return key.line(signature), int.from_bytes(signature[:8])


def _cosigned(log: Log, connections: Connections, deadline: Cutoff, url: str) -> bytes:
    """The lines that a witness answers. The first request says that it signed nothing; it answers what it had."""
    size, old = len(log.raw), 0
    for _ in range(_TRIES):
        status, kind, body = _post(connections, deadline, url, request(log, old))
        if status == 200:
            return body
        if status == 422 and old:
            raise _Objection(
                f"the {size} entries do not continue the {old} that it cosigned: the log was cut or begun again",
                split=True,
            )
        if status != 409:
            said = _MEANINGS.get(status)
            raise _Objection(f"status {status}, expected 200" + (f": {said}" if said else ""))
        match = _SIZE.fullmatch(body) if kind == _SIZE_KIND else None
        if old == size and (match is None or int(match[1]) == size):
            raise _Objection(f"it cosigned another log of {size} entries: somebody signs two", split=True)
        if match is None or int(match[1]) == old:
            raise _Objection(f"status 409 after {old} entries without another size ({_SIZE_KIND})")
        old = int(match[1])
        if old > size:
            raise _Objection(
                f"it cosigned {old} entries, and this log has {size}: this copy is old, or there are two logs",
                split=True,
            )
    raise _Objection(f"it names another size each time, {_TRIES} times")


def request(log: Log, old: int) -> bytes:
    """What is sent to a witness that cosigned ``old`` entries: the proof from there, and the checkpoint."""
    proof = tlog.consistency(log.rows[0] if log.rows else [], old)
    lines = [f"old {old}", *map(b64, proof), "", ""]
    return "\n".join(lines).encode() + log.checkpoint


def _post(connections: Connections, deadline: Cutoff, url: str, body: bytes) -> tuple[int, str, bytes]:
    """Status, content type and body of an answer of at most a note's size."""
    deadline.left()
    with connections.post(url, body, {"Content-Type": "text/plain; charset=utf-8"}) as response:
        found = response.read(tlog.MAX_NOTE + 1)
        if not response.isclosed():
            connections.drop(url)
        deadline.left()
        if len(found) > tlog.MAX_NOTE:
            raise _Objection(f"the answer is larger than {tlog.MAX_NOTE} bytes")
        # A connection that ends early looks like the end of the body.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return response.status, response.getheader("Content-Type", ""), found
