"""One deadline for everything that is sent and received, which nothing that the other side sends can extend.

A socket's timeout limits the wait for the next bytes. A server that sends one byte at a time, or interim responses
without end, never reaches it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType


class Deadline:
    """A point in time that ends all operations of a connection; `renew` moves it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """End ``seconds`` from now."""
        self.seconds = seconds
        self._end = self._clock() + seconds

    def left(self) -> float:
        """The seconds left, more than 0; ``TimeoutError`` if there are none."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError(f"not complete within {self.seconds:g} s")
        return left

    @property
    def passed(self) -> bool:
        """True from the deadline on."""
        return self._clock() >= self._end


class Cutoff(Deadline):
    """A deadline at which every connection that it made is shut down, whichever layer is reading from it.

    For connections whose sockets other libraries read: use it in a ``with`` block, with its ``connect``.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    def __enter__(self) -> Cutoff:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            while self._watched:
                self._watched.pop().close()

    def connect(self, address: tuple[str, int], timeout: float, *_: object) -> socket.socket:
        """Connect to ``address``, and watch the connection. ``timeout`` is for each later operation.

        The arguments are those of ``socket.create_connection``, which it replaces in the HTTP library.
        """
        made = connect(*address, self)
        # A duplicate, because TLS takes the original away: shutting down either ends the connection.
        with self._lock:
            self._watched.append(made.dup())
        made.settimeout(timeout)
        return made

    def _shut_down(self) -> None:
        with self._lock:
            for each in self._watched:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def connect(host: str, port: int, limit: Deadline) -> socket.socket:
    """A TCP connection to the first address of ``host`` that answers; each has its part of the time left."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(limit.left() / (len(addresses) - tried))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed or OSError(f"no address of {host}")
