"""Align two lists of extends of one register: common, missing and replaced events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Protocol, TypeVar

MAX_ALIGNED = 1 << 18
"""Alignment costs at least the product of both lengths, and the host controls the length of a log. Above this product
rows are paired by position."""


class Extend(Protocol):
    """The input of alignment: TCG event type and 48-byte digest."""

    @property
    def type(self) -> int:
        """TCG event type."""

    @property
    def digest(self) -> bytes:
        """SHA-384 digest."""


L = TypeVar("L", bound=Extend)
R = TypeVar("R", bound=Extend)


def differences(left: Sequence[L], right: Sequence[R]) -> Iterator[tuple[L | None, R | None, int]]:
    """The rows that the two lists do not share, as (of ``left``, of ``right``, position in ``right`` from 1).

    A row without a partner has None on the other side.
    """
    rows = ([(row.type, row.digest) for row in left], [(row.type, row.digest) for row in right])
    for a, b, position in align(*rows):
        ours = None if a is None else left[a]
        theirs = None if b is None else right[b]
        if ours is None or theirs is None or ours.digest != theirs.digest:
            yield ours, theirs, position


_Row = tuple[int, bytes]


def align(left: Sequence[_Row], right: Sequence[_Row]) -> Iterator[tuple[int | None, int | None, int]]:
    """Pair (type, digest) rows of two lists: (index in ``left``, index in ``right``, position in ``right`` from 1).

    Rows with one digest are paired as in a text difference; within a replaced stretch those of one type are, in
    order; what finds no partner has None on the other side. What the lists have in common at both ends is paired
    first.
    """
    low = 0
    while low < min(len(left), len(right)) and left[low][1] == right[low][1]:
        yield low, low, low + 1
        low += 1
    tail = 0
    while tail < min(len(left), len(right)) - low and left[-1 - tail][1] == right[-1 - tail][1]:
        tail += 1
    first, second = left[low : len(left) - tail], right[low : len(right) - tail]
    blocks = [("replace", 0, len(first), 0, len(second))]
    if len(first) * len(second) <= MAX_ALIGNED:
        blocks = list(
            SequenceMatcher(
                None, [digest for _, digest in first], [digest for _, digest in second], autojunk=False
            ).get_opcodes()
        )
    for tag, a, b, c, d in blocks:
        if tag == "equal":
            for offset in range(b - a):
                yield low + a + offset, low + c + offset, low + c + offset + 1
        else:
            yield from _pairs(left, right, range(low + a, low + b), range(low + c, low + d))
    for offset in range(tail):
        yield len(left) - tail + offset, len(right) - tail + offset, len(right) - tail + offset + 1


def _pairs(
    left: Sequence[_Row], right: Sequence[_Row], ours: range, theirs: range
) -> Iterator[tuple[int | None, int | None, int]]:
    """Within a replaced stretch, pair rows of one type in order."""
    following = ours.start
    places: dict[int, list[int]] = {}
    for index in ours:
        places.setdefault(left[index][0], []).append(index)
    taken = dict.fromkeys(places, 0)
    for other in theirs:
        kind = right[other][0]
        known_places = places.get(kind, [])
        while kind in taken and taken[kind] < len(known_places) and known_places[taken[kind]] < following:
            taken[kind] += 1
        partner = known_places[taken[kind]] if kind in taken and taken[kind] < len(known_places) else None
        if partner is not None:
            for index in range(following, partner):
                yield index, None, other + 1
            following = partner + 1
        yield partner, other, other + 1
    for index in range(following, ours.stop):
        yield index, None, theirs.stop + 1
