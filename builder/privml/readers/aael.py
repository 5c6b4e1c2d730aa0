"""The attestation agent's event log (AAEL) of Confidential Containers: run-time events of RTMR3, one a line.

The first line is ``INIT ALGORITHM/HEX``: the register's value when the log began. Each further line, ``DOMAIN
OPERATION CONTENT``, is extended by the hash of its bytes. Source: confidential-containers/guest-components
attestation-agent/attestation-agent/src/eventlog.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.events.tcg import ALGORITHMS, LogEntry, bank_name, hashed_with
from privml.events.types import EV_EVENT_TAG

RTMR3_INDEX = 4
_INIT = re.compile(rb"INIT ([a-z0-9]{3,8})/((?:[0-9a-f]{2}){20,64})")
_MAX_LINES = 100_000


@dataclass(frozen=True)
class AgentLog:
    """The hash of the log's lines, the register's value before them, and an entry for each line."""

    algorithm: int
    initial: bytes
    entries: tuple[LogEntry, ...]

    @property
    def bank(self) -> str:
        """The name of the hash."""
        return bank_name(self.algorithm)

    @property
    def whole(self) -> bool:
        """True when the log begins with the register at zeros."""
        return not any(self.initial)

    def value(self) -> bytes | None:
        """RTMR3 after the log; None for a log of another hash than a TD's, SHA-384."""
        if len(self.initial) != len(ZERO):
            return None
        value = self.initial
        for entry in self.entries:
            value = extend(value, entry.sha384)
        return value


def is_agent_log(head: bytes) -> bool:
    """True when ``head`` begins with an INIT line."""
    return _INIT.match(head) is not None


def parse(data: bytes) -> AgentLog:
    """Decode a log; ``EvidenceError`` for an unknown hash, or a line without domain and operation."""
    first, *lines = data.removesuffix(b"\n").split(b"\n", _MAX_LINES)
    found = _INIT.fullmatch(first.rstrip(b"\r"))
    name = found[1].decode() if found is not None else ""
    algorithm = next((number for number, one in ALGORITHMS.items() if one.hashlib == name), None)
    if found is None or algorithm is None:
        raise EvidenceError("attestation agent's log: expected a first line `INIT sha384/` with the register's value")
    initial = bytes.fromhex(found[2].decode())
    entries = []
    for number, line in enumerate(lines, 2):
        digest = hashed_with(algorithm, line)
        if digest is None or len(digest) != len(initial):
            raise EvidenceError(f"attestation agent's log: {len(initial)} bytes after INIT are not a {name} value")
        if line.count(b" ") < 2:
            raise EvidenceError(f"attestation agent's log: line {number} has no domain, operation and content")
        entries.append(LogEntry(RTMR3_INDEX, EV_EVENT_TAG, {algorithm: digest}, line))
    return AgentLog(algorithm, initial, tuple(entries))
