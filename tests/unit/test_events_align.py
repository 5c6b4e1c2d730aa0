"""Pairing of two lists of extends, in bounded time for long lists."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

from privml.events import align
from privml.events.align import differences


@dataclass(frozen=True)
class Row:
    digest: bytes
    type: int = 4


def rows(text: str) -> list[Row]:
    return [Row(letter.lower().encode(), 13 if letter.isupper() else 4) for letter in text]


def told(left: str, right: str) -> list[tuple[str, str, int]]:
    return [
        (one.digest.decode() if one else "-", other.digest.decode() if other else "-", position)
        for one, other, position in differences(rows(left), rows(right))
    ]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("", "", []),
        ("abc", "abc", []),
        ("abc", "axbc", [("-", "x", 2)]),
        ("abc", "ac", [("b", "-", 2)]),
        ("abc", "axc", [("b", "x", 2)]),
        ("abc", "", [("a", "-", 1), ("b", "-", 1), ("c", "-", 1)]),
        ("aBc", "ayXc", [("-", "y", 2), ("b", "x", 3)]),
        ("abcd", "acbd", [("-", "c", 2), ("c", "-", 4)]),
    ],
)
def test_rows_are_paired_at_the_smallest_difference(
    left: str, right: str, expected: list[tuple[str, str, int]]
) -> None:
    assert told(left, right) == expected


def test_long_lists_are_paired_by_position_between_common_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told("abcdez", "axbcdz") == [("-", "x", 2), ("e", "-", 6)]
    monkeypatch.setattr(align, "MAX_ALIGNED", 15)
    assert told("abcdez", "axbcdz") == [("b", "x", 2), ("c", "b", 3), ("d", "c", 4), ("e", "d", 5)]


def test_long_lists_are_compared() -> None:
    one = [Row(hashlib.sha384(bytes([number % 251])).digest()) for number in range(6000)]
    other = [Row(b"") if number % 2 else row for number, row in enumerate(one)]
    assert len(list(differences(one, other))) == 3000
