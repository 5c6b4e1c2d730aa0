"""One deadline for everything that is read from a server, which nothing that the server sends can extend.

A socket's timeout limits the wait for the next bytes. A server that sends one byte at a time, or interim responses
without end, never reaches it. Here a timer shuts the connection down, whichever layer is reading from it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType


class Deadline:
    """``seconds`` from now. At that moment every watched connection is shut down. Use it in a ``with`` block."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            while self._watched:
                self._watched.pop().close()

    @property
    def passed(self) -> bool:
        """True from the deadline on."""
        return time.monotonic() >= self._end

    def left(self) -> float:
        """The seconds left; ``TimeoutError`` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no complete response within {self.seconds:g} s")
        return left

    def connect(
        self, address: tuple[str, int], timeout: float, source_address: tuple[str, int] | None = None
    ) -> socket.socket:
        """Connect to ``address`` in the time left, and watch the connection. `HTTPConnection` can call it."""
        failures = OSError(f"{address[0]}: no address found")
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(min(timeout, self.left()))
                if source_address is not None:
                    made.bind(source_address)
                made.connect(place)
                # A duplicate, because TLS takes the original away: shutting down either ends the connection.
                with self._lock:
                    self._watched.append(made.dup())
            except OSError as error:
                made.close()
                failures = error
            else:
                return made
        self.left()
        raise failures

    def _shut_down(self) -> None:
        with self._lock:
            for each in self._watched:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
