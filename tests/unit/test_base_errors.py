"""Text from an untrusted machine is shown on one line without control characters."""

from __future__ import annotations

import os

import pytest

from privml.base.errors import EvidenceError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 1", "Größe 1"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\N{NO-BREAK SPACE}b\N{ZERO WIDTH SPACE}c", r"a\xa0b\u200bc"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}txt", r"\u202etxt"),
        ("\U000e0001", r"\U000e0001"),
        (os.fsdecode(b"\xff"), r"\udcff"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()
    printable(text).encode("utf-8")


def test_the_message_of_malformed_evidence_is_one_printable_line() -> None:
    assert EvidenceError("field \x07\r\n`x`").message == r"field \x07\r\n`x`"
