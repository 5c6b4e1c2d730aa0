"""A long step says that it still runs."""

from __future__ import annotations

import threading

import pytest

from privml.base import steps


def test_a_step_that_takes_long_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SILENCE", 0.01)
    spoken = threading.Event()
    say = steps.say

    def heard(text: str) -> None:
        say(text)
        if "so far" in text:
            spoken.set()

    monkeypatch.setattr(steps, "say", heard)
    with steps.step("Reading lists"):
        assert spoken.wait(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "> Reading lists"
    assert lines[1].startswith("  Reading lists: 0 s so far")
    assert lines[-1].startswith("  Reading lists: done in ")


def test_a_short_step_says_only_that_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), steps.step("Breaking"):
        raise ValueError("x")
    assert capsys.readouterr().err == "> Breaking\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "step"]


def test_what_a_block_says_is_heard_even_when_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    steps.say("before")
    steps.set_quiet(True)
    try:
        with steps.heard() as texts:
            steps.say("one\ntwo")
            steps.say("three")
    finally:
        steps.set_quiet(False)
    steps.say("after")
    assert texts == ["one\ntwo", "three"]
    assert capsys.readouterr().err == "before\nafter\n"
