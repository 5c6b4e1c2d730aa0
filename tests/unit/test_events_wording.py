"""Refusals say what changed in a command line, not two long lines to compare by eye."""

from __future__ import annotations

import hashlib

import pytest

from privml.events import types
from privml.events.event import Event, Evidence
from privml.events.logged import LoggedEvent
from privml.events.registers import RTMR2
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.wording import difference_line, word_changes

LINE = "console=ttyS0 quiet panic=-1 privml.root=aa:bb:1:1"


@pytest.mark.parametrize(
    ("logged", "line"),
    [
        (f"{LINE} audit=0", 'with "audit=0" added'),
        ("console=ttyS0 panic=-1 privml.root=aa:bb:1:1", 'with "quiet" removed'),
        (LINE.replace("aa", "cc"), 'with "privml.root=cc:bb:1:1" added and "privml.root=aa:bb:1:1" removed'),
        (LINE.replace(" ", "  "), "with other spaces"),
        ("something else altogether", None),
        ("", None),
    ],
)
def test_changed_words_are_listed(logged: str, line: str | None) -> None:
    assert word_changes(LINE, logged) == line


def test_a_very_long_line_is_not_compared() -> None:
    assert word_changes(LINE, f"{LINE} {'x ' * 100_000}") is None


def test_a_note_that_is_not_a_command_line_is_unchanged() -> None:
    assert word_changes("Authenticode", "Authenticode x") is None


def test_a_command_line_in_its_own_event_is_compared_word_by_word() -> None:
    # The stub measures a host's words once more, in an event that nobody predicted; the kernel's own has no text.
    line = "console=ttyS0 quiet privml.root=abc"
    predicted = Event(
        RTMR2, types.EV_EVENT_TAG, b"\1" * 48, "uki.efi .cmdline (recipes/x.yaml:3 a)", Evidence.SOURCE, line
    )
    text = f"{line} audit=0\0".encode("utf-16-le")
    entry = LogEntry(3, types.EV_IPL, {ALG_SHA384: hashlib.sha384(text).digest()}, text)
    line = difference_line(RTMR2, 13, None, LoggedEvent(RTMR2, entry, 0), near=[predicted])
    assert line == (
        "RTMR2 event 13: not predicted: logged EV_IPL, the text of EV_EVENT_TAG from uki.efi .cmdline "
        '(recipes/x.yaml:3 a) with "audit=0" added'
    )
    other = LogEntry(3, types.EV_IPL, entry.digests, "something else\0".encode("utf-16-le"))
    alone = difference_line(RTMR2, 13, None, LoggedEvent(RTMR2, other, 0), near=[predicted])
    assert "the text of" not in alone
    assert '"something else"' in alone
