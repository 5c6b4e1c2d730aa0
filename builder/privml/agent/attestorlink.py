"""What the boot process does with the attestor, which systemd starts again a few times when it exits."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from privml.agent.attestorclient import AttestorClient
from privml.agent.layout import Layout
from privml.agent.restarts import ATTESTOR
from privml.base.errors import HostError, PrivmlError
from privml.events.agent import AgentEvent

_PAUSE = 0.05
_FAILING = 5.0


class AttestorLink:
    """The attestor of this boot. ``wait`` bounds its start, ``again`` each restart, in seconds; ``restarted`` is
    called after each.
    """

    def __init__(self, layout: Layout, *, wait: float, again: float, restarted: Callable[[], None]) -> None:
        self._client = AttestorClient(layout)
        self._wait = wait
        self._again = again
        self._restarted = restarted
        self._process: int | None = None
        self._suspended = False
        self._restarts = 0

    def start(self) -> tuple[str, str]:
        """Wait until it listens: the name of the TEE, and why there is none."""
        found = ("", "")
        end = time.monotonic() + self._wait
        while not found[0]:
            try:
                found = self._client.platform()
            except HostError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE)
        self._process = self._client.watch()
        self._client.resume()
        return found

    def keys(self, section: bytes) -> None:
        """Send the keys section."""
        self._current().keys(section)

    def stage(self, name: str) -> None:
        """Go to the next stage."""
        self._current().stage(name)

    def extend(self, event: AgentEvent) -> None:
        """Extend an event."""
        self._current().extend(event)

    def release_quote(self, root: bytes) -> dict[str, Any]:
        """Document parts over ``root`` for `key-release`, as JSON (`attestorclient.parts_of`)."""
        return self._current().release_quote(root)

    def suspend(self) -> None:
        """Let no quote be given until `resume`."""
        self._suspended = True
        self._current().suspend()

    def resume(self) -> None:
        """Let quotes be given again."""
        self._suspended = False
        self._current().resume()

    def check(self) -> None:
        """Take up with the attestor that was started in the place of one that exited; ``PrivmlError`` without one
        that goes on where the other was.
        """
        self._current()

    def fail(self) -> None:
        """Let no quote be given any more, and wait until it has extended `failed`.

        It does so even if this process ends next. The wait is short while a quote is being made, which is not given.
        """
        if self._process is None:
            return
        with contextlib.suppress(PrivmlError, OSError):
            self.suspend()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._process, signal.SIGUSR1)
        end = time.monotonic() + _FAILING
        with contextlib.suppress(PrivmlError, OSError):  # refused, once it has failed
            while time.monotonic() < end:
                self._client.suspend()
                time.sleep(_PAUSE)

    def _current(self) -> AttestorClient:
        """The client, once it is known that an attestor runs."""
        if self._process is None or not _exited(self._process):
            return self._client
        if self._restarts >= ATTESTOR:
            raise HostError(f"the attestor exited, after {ATTESTOR} restarts")
        found = self._next()
        self._restarts += 1
        os.close(self._process)
        self._process = found
        if not self._suspended:
            self._client.resume()
        self._restarted()
        return self._client

    def _next(self) -> int:
        """A pidfd of the attestor that was started next."""
        end = time.monotonic() + self._again
        while True:
            try:
                return self._client.watch()
            except HostError as error:
                if time.monotonic() >= end:
                    raise HostError(f"the attestor exited, and no other one listens: {error.message}") from error
                time.sleep(_PAUSE)


def _exited(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))
