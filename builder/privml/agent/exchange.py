"""One HTTP request to the engine or a service over its unix socket; the response is streamed as it is sent."""

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
    """A sent request and its response: ``status``, ``headers``, then ``pieces()`` until the end.

    ``timeout`` bounds each wait for the engine's next bytes, not the whole response, which may be long.
    Leaving the block closes the connection, so the engine stops generating for a caller that has disconnected.
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
            # One sendall: an engine that answers early and closes must not cause a second, failing write.
            wire = b"".join(self._http.send(event) or b"" for event in message)
            try:
                self._socket.sendall(wire)
            except BrokenPipeError:
                pass  # the engine may refuse before it has read everything; its response can still be read
            except OSError as error:
                raise HostError(f"engine: {error.strerror or error}") from error
            head = self._head()
        except BaseException:
            self.close()
            raise
        self.status: int = head.status_code
        self.headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in head.headers]

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; ``HostError`` when the engine stops before the end.

        What has arrived together is one piece, however many chunks the engine made of it.
        """
        while isinstance(event := self._next(), h11.Data):
            ready = [event.data]
            while isinstance(event := self._next(wait=False), h11.Data):
                ready.append(event.data)
            yield b"".join(ready)
            if event is not None:
                return

    def close(self) -> None:
        """Close the connection, answered or not."""
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

    def _next(self, *, wait: bool = True) -> h11.Event | None:
        """The next event; None at the end of the connection, and without ``wait`` if more must arrive first."""
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED or not wait:
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
                raise HostError(f"engine: the response is larger than {limit} bytes")
        return exchange.status, data
