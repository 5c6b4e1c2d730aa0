"""Refusals say what changed in a command line, not two long lines to compare by eye."""

from __future__ import annotations

import pytest

from privml.events.explain import word_changes

LINE = "console=ttyS0 quiet panic=-1 privml.root=aa:bb:1:1"


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        (f"{LINE} audit=0", 'with "audit=0" added'),
        ("console=ttyS0 panic=-1 privml.root=aa:bb:1:1", 'with "quiet" removed'),
        (LINE.replace("aa", "cc"), 'with "privml.root=cc:bb:1:1" added and "privml.root=aa:bb:1:1" removed'),
        (LINE.replace(" ", "  "), "with other spaces"),
        ("something else altogether", None),
        ("", None),
    ],
)
def test_changes_of_words(logged: str, told: str | None) -> None:
    assert word_changes(LINE, logged) == told


def test_a_note_that_is_no_command_line_is_left_alone() -> None:
    assert word_changes("Authenticode", "Authenticode x") is None
