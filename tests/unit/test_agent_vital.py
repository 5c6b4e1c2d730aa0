"""A process whose vital thread ends by an error does not stay half alive."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
from privml.agent import vital
def work():
    if sys.argv[1] == "raises":
        raise ValueError("what a caller sent")
vital.begin("server", work)
threading.Event().wait(0.2 if sys.argv[1] == "returns" else 60)
"""


def ended(how: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stderr


def test_an_error_that_nobody_foresaw_ends_the_process_and_says_no_message() -> None:
    assert ended("raises") == (1, "privml: server: ended by an unexpected ValueError\n")


def test_a_thread_may_return() -> None:
    assert ended("returns") == (0, "")
