"""A thread that its process cannot do without.

An error in it that nobody foresaw ends the process, which systemd starts again. Without that the machine would stay
ready, and never attest or accept a connection again: what is left of such a process looks alive from outside.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from privml.agent import console


def begin(process: str, work: Callable[[], None]) -> None:
    """Do ``work`` in a thread of ``process`` (its name on the console). It may return, but not raise."""

    def watched() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the process must end
            # Its type and no message, which may hold what a caller sent.
            console.say(f"privml: {process}: ended by an unexpected {type(error).__name__}")
            os._exit(1)

    threading.Thread(target=watched, daemon=True).start()
