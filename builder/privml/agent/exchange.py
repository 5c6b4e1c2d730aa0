"""One HTTP request to the engine or a service over its unix socket; the response is streamed as it is sent."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import h11

from privml.base import heads
from privml.base.errors import HostError

_PIECE = 64 * 1024
_MAX_HEAD = 16 * 1024
_WITH_BODY = ("GET", "POST", "PUT", "DELETE")
Headers = Sequence[tuple[bytes, bytes]]


class NotConnectedError(HostError):
    """The engine or service does not listen: nothing was sent to it."""


class Exchange:
    """A sent request and its response: ``status``, ``headers``, then ``pieces()`` until the end.

    ``timeout`` bounds each wait for the engine's next bytes, not the whole response, which may be long. ``caller`` is
    the descriptor of the caller's connection: once that has ended, so has the wait. Leaving the block closes the
    connection, so the engine stops generating for a caller that has disconnected. A response that is ``ready`` has a
    stated length: it is made whole, and its pieces follow its head at once.

    A response of the usual form (`base.heads`) is read here, every other one by h11.
    """

    def __init__(
        self,
        engine: Path,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        timeout: float,
        caller: int | None = None,
    ) -> None:
        self._timeout = timeout
        self._caller = caller
        # It never blocks: `_wait` waits, also for the caller.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(str(engine))
        except OSError as error:
            self.close()
            raise NotConnectedError(f"engine: {error.strerror or error}") from error
        try:
            self._poll = select.poll()
            if caller is not None:
                self._poll.register(caller, select.POLLRDHUP)
            sent: list[tuple[bytes, bytes]] = [
                (b"host", b"localhost"),
                (b"connection", b"close"),
                *headers,
                (b"content-length", str(len(body)).encode()),
            ]
            head = heads.written_request(method, target, sent)
            http, wire = _in_h11(method, target, sent, body) if head is None else (None, head + body)
            # Written whole: an engine that answers early and closes must not cause a second, failing write.
            self._send(wire)
            self._poll.register(self._socket, select.POLLIN)
            self._data = self._receive()
            found = heads.response(self._data, _MAX_HEAD) if method in _WITH_BODY else None
            if found is None:
                http = http or _in_h11(method, target, sent, body)[0]
                http.receive_data(self._data)
                answer = self._head(http)
                self.status = answer.status_code
                self.headers: list[tuple[bytes, bytes]] = [
                    (bytes(key), bytes(value)) for key, value in answer.headers
                ]
                self.ready = any(name == b"content-length" for name, _ in self.headers)
            else:
                http = None
                self.status, self.headers, self._left = found.status, found.fields, found.length
                self._data = self._data[found.size :]
                self.ready = True
            self._http = http
        except BaseException:
            self.close()
            raise

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; ``HostError`` when the engine stops before the end.

        What has arrived together is one piece, however many chunks the engine made of it.
        """
        http = self._http
        if http is None:
            yield from self._plain_pieces()
            return
        while isinstance(event := self._next(http), h11.Data):
            ready = [event.data]
            while isinstance(event := self._next(http, wait=False), h11.Data):
                ready.append(event.data)
            yield b"".join(ready)
            if event is not None:
                return

    def _plain_pieces(self) -> Iterator[bytes]:
        """The pieces of a body of a stated length."""
        while self._left:
            data = self._data or self._receive()
            if not data:
                raise HostError("engine: the connection ended in the middle of a response")
            piece, self._data = data[: self._left], b""
            self._left -= len(piece)
            yield piece

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

    def _head(self, http: h11.Connection) -> h11.Response:
        event = self._next(http)
        while isinstance(event, h11.InformationalResponse):
            event = self._next(http)
        if not isinstance(event, h11.Response):
            raise HostError("engine: the connection ended without a response")
        return event

    def _next(self, http: h11.Connection, *, wait: bool = True) -> h11.Event | None:
        """The next event; None at the end of the connection, and without ``wait`` if more must arrive first."""
        try:
            while True:
                event = http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED or not wait:
                    return None
                http.receive_data(self._receive())
        except h11.RemoteProtocolError as error:
            # Not h11's message: it may quote what was sent, and this error can reach the console.
            raise HostError("engine: what it sent is not HTTP") from error

    def _send(self, data: bytes) -> None:
        """Send all of it, or as much as an engine takes that refuses before it has read everything."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._poll.register(self._socket, select.POLLOUT)
                self._wait()
            except BrokenPipeError:
                return  # its response can still be read
            except OSError as error:
                raise HostError(f"engine: {error.strerror or error}") from error

    def _receive(self) -> bytes:
        """What the engine sends next, nothing at the end of its connection."""
        while True:
            self._wait()
            try:
                return self._socket.recv(_PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise HostError(f"engine: {error.strerror or error}") from error

    def _wait(self) -> None:
        """Wait for the engine while the caller is there; ``HostError`` if it leaves."""
        ready = {descriptor for descriptor, _ in self._poll.poll(self._timeout * 1000)}
        if not ready:
            raise HostError("engine: timed out")
        if self._caller in ready:
            raise HostError("engine: the caller has disconnected")


def _in_h11(method: str, target: str, headers: Headers, body: bytes) -> tuple[h11.Connection, bytes]:
    """A connection of h11 that has sent a request, and the request's bytes."""
    made = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=target, headers=list(headers))
    events: tuple[h11.Event, ...] = (request, h11.Data(data=body), h11.EndOfMessage())
    return made, b"".join(made.send(event) or b"" for event in events)


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
