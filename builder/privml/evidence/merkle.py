"""Merkle tree over the nonces of several callers, for one quote.

Leaf ``SHA256(0x00 || "privml-nonce/v1\\0" || nonce)``, node ``SHA256(0x01 || left || right)``; an odd last node is
promoted unchanged (ARCHITECTURE "Report data v1"). For one caller the root is the leaf and the path is empty.
Different prefixes for nodes and leaves ensure that a path proves exactly one nonce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from privml.base.errors import EvidenceError

NONCE_SIZE = 32
MAX_DEPTH = 32
_LEAF = b"\x00privml-nonce/v1\0"
_NODE = b"\x01"
SIDES = ("left", "right")


@dataclass(frozen=True)
class Step:
    """One step from a leaf to the root: the sibling's hash (32 bytes) and its side."""

    side: str
    hash: bytes


@dataclass(frozen=True)
class NonceTree:
    """The root (32 bytes) over a batch of nonces, and each nonce's path, in the order of the batch."""

    root: bytes
    paths: tuple[tuple[Step, ...], ...]


def leaf(nonce: bytes) -> bytes:
    """The leaf of a 32-byte nonce."""
    if len(nonce) != NONCE_SIZE:
        raise EvidenceError(f"nonce: {len(nonce)} bytes, expected {NONCE_SIZE}")
    return hashlib.sha256(_LEAF + nonce).digest()


def build(nonces: Sequence[bytes]) -> NonceTree:
    """The tree over ``nonces`` (one or more, duplicates allowed)."""
    if not nonces:
        raise EvidenceError("nonces: empty, expected at least one")
    level = [(leaf(nonce), [index]) for index, nonce in enumerate(nonces)]
    paths: list[list[Step]] = [[] for _ in nonces]
    while len(level) > 1:
        above = []
        for at in range(0, len(level) - 1, 2):
            (left, left_leaves), (right, right_leaves) = level[at], level[at + 1]
            for index in left_leaves:
                paths[index].append(Step("right", right))
            for index in right_leaves:
                paths[index].append(Step("left", left))
            above.append((_node(left, right), left_leaves + right_leaves))
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return NonceTree(level[0][0], tuple(tuple(path) for path in paths))


def root(nonce: bytes, path: Sequence[Step]) -> bytes:
    """The root for ``nonce`` and ``path``; ``EvidenceError`` for an impossible path."""
    if len(path) > MAX_DEPTH:
        raise EvidenceError(f"path: {len(path)} steps, expected at most {MAX_DEPTH}")
    current = leaf(nonce)
    for step in path:
        if len(step.hash) != 32:
            raise EvidenceError(f"path: a hash of {len(step.hash)} bytes, expected 32")
        if step.side == "left":
            current = _node(step.hash, current)
        elif step.side == "right":
            current = _node(current, step.hash)
        else:
            raise EvidenceError(f"path: side `{step.side[:20]}`, expected left or right")
    return current


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
