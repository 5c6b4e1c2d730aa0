"""Merkle tree over the lines of a broker's log, built one line at a time.

Leaf ``SHA256(0x00 || "privml-broker-log/v1\\0" || line)``, node ``SHA256(0x01 || left || right)``, an odd last node
is promoted: the tree of RFC 6962 with a label of its own, so no leaf here is a leaf of another log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from privml.channel.release import LogHead
from privml.statement.tlog import leaf_hash, node_hash

LABEL = b"privml-broker-log/v1\0"
EMPTY = hashlib.sha256(LABEL).digest()
"""Root of a log without lines."""


class Tree:
    """The roots of the complete subtrees, from the largest: all that is needed to go on."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._roots: list[bytes] = []
        self.size = 0
        for line in lines:
            self.append(line)

    def append(self, line: bytes) -> None:
        """Add the next line."""
        found, left = leaf_hash(LABEL + line), self.size
        while left & 1:
            found, left = node_hash(self._roots.pop(), found), left >> 1
        self._roots.append(found)
        self.size += 1

    def copy(self) -> Tree:
        """A tree that goes on by itself."""
        made = Tree()
        made._roots, made.size = list(self._roots), self.size
        return made

    @property
    def head(self) -> LogHead:
        """Size and root."""
        if not self._roots:
            return LogHead(0, EMPTY)
        found = self._roots[-1]
        for root in reversed(self._roots[:-1]):
            found = node_hash(root, found)
        return LogHead(self.size, found)
