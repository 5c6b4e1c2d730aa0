"""One HTTP request to the engine over its unix socket, its answer piece by piece as the engine gives it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import h11

from privml.base.errors import HostError

_PIECE = 64 * 1024
Headers = Sequence[tuple[bytes, bytes]]


class Exchange:
    """A request that was sent, and its response: ``status``, ``headers``, then ``pieces()`` to the end.

    ``timeout`` bounds each wait for the engine's next bytes, not the whole answer: a long answer is a good one.
    Leaving the block closes the connection, which tells the engine to stop working for a caller who is gone.
    """

    def __init__(
        self, engine: Path, method: str, target: str, headers: Headers = (), body: bytes = b"", *, timeout: float
    ) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(engine))
        except OSError as error:
            self.close()
            raise HostError(f"engine: {error.strerror or error}") from error
        try:
            sent: list[tuple[bytes, bytes]] = [
                (b"host", b"localhost"),
                (b"connection", b"close"),
                *headers,
                (b"content-length", str(len(body)).encode()),
            ]
            message: list[h11.Event] = [h11.Request(method=method, target=target, headers=sent)]
            message += [h11.Data(data=body), h11.EndOfMessage()]
            # In one piece: an engine that answers at once and closes must not find us still writing nothing.
            wire = b"".join(self._http.send(event) or b"" for event in message)
            try:
                self._socket.sendall(wire)
            except BrokenPipeError:
                pass  # it may refuse before it has read everything; what it said is still to be read
            except OSError as error:
                raise HostError(f"engine: {error.strerror or error}") from error
            head = self._head()
        except BaseException:
            self.close()
            raise
        self.status: int = head.status_code
        self.headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in head.headers]

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; ``HostError`` when the engine stops in the middle."""
        while isinstance(event := self._next(), h11.Data):
            yield bytes(event.data)

    def close(self) -> None:
        """End the connection, answered or not."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> h11.Response:
        event = self._next()
        while isinstance(event, h11.InformationalResponse):
            event = self._next()
        if not isinstance(event, h11.Response):
            raise HostError("engine: the connection ended without a response")
        return event

    def _next(self) -> h11.Event | None:
        """The next event; None when the connection has nothing more to give."""
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED:
                    return None
                self._http.receive_data(self._socket.recv(_PIECE))
        except OSError as error:
            raise HostError(f"engine: {error.strerror or error}") from error
        except h11.RemoteProtocolError as error:
            raise HostError(f"engine: not HTTP: {error}") from error


def whole(
    engine: Path, method: str, target: str, headers: Headers = (), body: bytes = b"", *, timeout: float, limit: int
) -> tuple[int, bytes]:
    """Status and whole body of one exchange; ``HostError`` above ``limit`` bytes."""
    data = b""
    with Exchange(engine, method, target, headers, body, timeout=timeout) as exchange:
        for piece in exchange.pieces():
            data += piece
            if len(data) > limit:
                raise HostError(f"engine: an answer of more than {limit} bytes")
        return exchange.status, data
