"""HTTP/1.1 over TLS connections that are kept between requests, on the event loop.

``check`` of a connection runs right after its handshake, before a byte of a request is sent, and decides whether the
peer is the right one. Heads, interim responses and trailers are bounded, each piece of a body has a deadline that
nothing the peer sends can extend, and an answer that ends early is an error, never a short answer.

A kept connection may be closed by its server at any time. A request is then sent again over a new one only if nothing
of an answer arrived and the server cannot have run it: not all of the request had left, or it said ``Expect:
100-continue`` and the guest, which says so before it reads a body, did not; or the method is safe (ADR 0096). The
time that a connection is kept is shorter than the guest's own, 60 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import cast

import h11

from privml.base.errors import HostError
from privml.client.connection import CONNECT_TIMEOUT, MAX_HEAD, MAX_INTERIM, Endpoint, reason
from privml.client.ways import Answer, Asked, Headers, Judged, Unsent

Check = Callable[[ssl.SSLObject], None]

ANSWER_TIMEOUT = 900.0
"""Seconds from a request to the end of its answer's head, and then for each piece of the body."""
MAX_IDLE = 64
"""Idle connections to one address."""
IDLE = 20.0
"""Seconds that an idle connection is kept, if it is one of the first `_LONG`."""
_LONG = 8
_IDLE_SURPLUS = 3.0  # each occupies a thread of the guest, and others want them too
_RESTED = 1.0
"""Seconds of idleness after which a connection may just be closed by its server."""
_UNREAD = 256 * 1024
_ONE_WRITE = 64 * 1024
_SAFE = ("GET", "HEAD")
_WITHOUT_BODY = (204, 304)
_CLOSED = "the connection was closed before the end of the response"
_PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_USER_TIMEOUT": 30_000}
"""A peer whose machine acknowledges nothing for 30 s is given up, where the system has these options."""


class Connections:
    """Connections to one address, all with the same ``check``; used on one event loop."""

    def __init__(self, where: Endpoint, context: ssl.SSLContext, check: Check) -> None:
        self._where = where
        host = f"[{where.host}]" if ":" in where.host else where.host
        self._fixed = ((b"host", f"{host}:{where.port}".encode()), (b"accept-encoding", b"identity"))
        self._context = context
        self._check = check
        self._idle: list[_Connection] = []
        self._closed = False

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request; errors are those of `client.ways.Way.send`."""
        # The last one that was used: what a burst left over then becomes old and is closed.
        if self._idle:
            with contextlib.suppress(Unsent):
                return await self._idle.pop().ask(asked, judged)
        return await (await self._new()).ask(asked, judged)

    def close(self) -> None:
        """Close the idle connections now, and each other one after its answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def keep(self, connection: _Connection) -> float | None:
        """Keep a connection after its answer: for how many seconds, or None if it must be closed."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            return None
        self._idle.append(connection)
        return IDLE if len(self._idle) <= _LONG else _IDLE_SURPLUS

    def forget(self, connection: _Connection) -> None:
        """A connection was closed."""
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def head(self, asked: Asked, *, expect: bool) -> h11.Request:
        """The head of a request to this address."""
        headers = [*self._fixed, *asked.headers]
        if any(name == b"te" for name, _ in asked.headers):
            headers.append((b"connection", b"te"))  # RFC 9110, 10.1.4
        if asked.body or asked.method not in _SAFE:
            headers.append((b"content-length", str(len(asked.body)).encode()))
        if expect:
            headers.append((b"expect", b"100-continue"))
        return h11.Request(method=asked.method, target=asked.target, headers=headers)

    async def _new(self) -> _Connection:
        loop = asyncio.get_running_loop()
        made = _Connection(self, self._check, loop)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(
                    lambda: made,
                    self._where.host,
                    self._where.port,
                    ssl=self._context,
                    server_hostname=self._where.host,
                    happy_eyeballs_delay=1.0,
                )
        except OSError as error:
            made.abort()
            raise Unsent(f"no connection to the attested machine: {reason(error)}") from error
        except BaseException:
            made.abort()
            raise
        if made.refused is not None:
            raise made.refused
        return made


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time, and idle between them."""

    def __init__(self, connections: Connections, check: Check, loop: asyncio.AbstractEventLoop) -> None:
        self.refused: BaseException | None = None
        self._connections = connections
        self._check = check
        self._loop = loop
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._transport: asyncio.Transport | None = None
        self._busy = True
        self._rested = float("inf")
        self._heard = False
        self._written = False
        self._inbox = bytearray()
        self._ended: Exception | None = None
        self._reading = True
        self._writing = True
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the peer: the handshake is complete, and nothing was sent."""
        self._transport = cast(asyncio.Transport, transport)
        # `pause_writing` then means that this process still has some of the request.
        self._transport.set_write_buffer_limits(high=1, low=0)
        try:
            self._check(transport.get_extra_info("ssl_object"))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever opens the connection
            self.refused = error
            self._transport.abort()
            return
        made: socket.socket = transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        """Take what arrived; whatever comes without a request ends the connection."""
        if not self._busy:
            self.abort()
            return
        self._heard = True
        self._inbox += data
        if len(self._inbox) > _UNREAD and self._transport is not None and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Note the end of what the peer sends; the transport then closes itself."""
        self._end(ConnectionResetError(_CLOSED))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the connection."""
        self._end(exc or ConnectionResetError(_CLOSED))

    def pause_writing(self) -> None:
        """Some of the request waits in this process."""
        self._writing = False

    def resume_writing(self) -> None:
        """All of what was written has left this process, or is in its last buffer."""
        self._writing = True
        self._wake()

    # What the pool and the answers call.

    def abort(self) -> None:
        """Close the connection at once."""
        self._connections.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request; the head of its answer has arrived."""
        # The body follows at once, also without the answer to this: nothing is delayed.
        expect = bool(asked.body) and self._loop.time() > self._rested
        head = self._connections.head(asked, expect=expect)
        self._busy, self._heard, self._written = True, False, False
        try:
            self.renew()
            await self._send(head, asked.body)
            found = await self._head()
        except (OSError, h11.ProtocolError) as error:
            left = self._written and self._writing  # all of it left this process, so it may have been run
            harmless = asked.method in _SAFE or expect or not left
            unsent = not self._heard and isinstance(error, ConnectionError) and harmless
            self.abort()
            raise (Unsent if unsent else HostError)(f"the attested machine: {_reason(error)}") from error
        except BaseException:
            self.abort()
            raise
        headers = cast(Headers, tuple(found.headers))
        if not _has_end(asked.method, found.status_code, headers):
            self.abort()
            raise HostError("the attested machine sent a response without a length")
        body = _Body(self)
        return Answer(judged, found.status_code, headers, body, lambda: body.trailers, body.close)

    def renew(self) -> None:
        """Begin the time for the next piece."""
        self._deadline = self._loop.time() + ANSWER_TIMEOUT

    def ready(self) -> tuple[bytes, Headers | None]:
        """What has arrived of the body, and its trailers if that is all of it; may raise an error of `h11`."""
        pieces: list[bytes] = []
        while (event := self._event()) is not None:
            if isinstance(event, h11.EndOfMessage):
                return b"".join(pieces), cast(Headers, tuple(event.headers))
            pieces.append(cast(h11.Data, event).data)
        return b"".join(pieces), None

    async def more(self) -> None:
        """Wait until something arrives; ``OSError`` at the end of the connection and at the deadline."""
        if self._ended is not None:
            raise self._ended
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        if self._timer is None or self._timer.when() > self._deadline:
            self._set(self._deadline)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def done(self) -> None:
        """The answer is complete: keep the connection, or close it."""
        http = self._http
        whole = http.our_state is h11.DONE and http.their_state is h11.DONE and self._ended is None
        if not whole or self._inbox or not self._reading or not self._writing or http.trailing_data[0]:
            self.abort()
            return
        http.start_next_cycle()
        self._busy = False
        seconds = self._connections.keep(self)
        if seconds is None:
            self.abort()
            return
        now = self._loop.time()
        self._rested, self._deadline = now + _RESTED, now + seconds
        self._set(self._deadline)

    # Inside.

    async def _send(self, head: h11.Request, body: bytes) -> None:
        """Write the request, until all of it is written or the server answers before that."""
        transport = self._transport
        if self._ended is not None or transport is None or transport.is_closing():
            raise self._ended or ConnectionResetError(_CLOSED)
        transport.write((self._http.send(head) or b"") + body[:_ONE_WRITE])
        view = memoryview(body)
        for offset in range(_ONE_WRITE, len(body), _ONE_WRITE):
            await asyncio.sleep(0)
            while not self._writing and not self._inbox:
                await self.more()
            if self._inbox:
                return
            if self._ended is not None:
                raise self._ended
            transport.write(view[offset : offset + _ONE_WRITE])
        self._http.send_with_data_passthrough(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())
        self._written = True

    async def _head(self) -> h11.Response:
        size, interim = 0, 0
        while True:
            event = self._event()
            if event is None:
                await self.more()
                continue
            if not isinstance(event, h11.Response | h11.InformationalResponse):
                raise ConnectionResetError(_CLOSED)
            size += sum(len(name) + len(value) + 4 for name, value in event.headers)
            if size > MAX_HEAD:
                raise h11.RemoteProtocolError(f"the head of the response is larger than {MAX_HEAD} bytes")
            if isinstance(event, h11.Response):
                return event
            interim += 1
            if interim > MAX_INTERIM:
                raise h11.RemoteProtocolError(f"more than {MAX_INTERIM} interim responses (100 Continue)")

    def _event(self) -> h11.Event | None:
        """The next event, or None if more must arrive first."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is not h11.NEED_DATA or not self._inbox:
                return None
            self._http.receive_data(bytes(self._inbox))
            self._inbox.clear()

    def _end(self, error: Exception) -> None:
        if self._ended is None:
            self._ended = error if isinstance(error, OSError) else ConnectionResetError(str(error))
        if not self._busy:
            self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._set(self._deadline)  # it was renewed
        elif not self._busy:
            self.abort()
        elif self._waiter is not None:
            self._ended = TimeoutError(f"not complete within {ANSWER_TIMEOUT:g} s")
            self._wake()
            self.abort()


class _Body:
    """The body of one answer, given out as it arrives."""

    def __init__(self, connection: _Connection) -> None:
        self.trailers: Headers = ()
        self._connection: _Connection | None = connection

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        if connection is None:
            raise StopAsyncIteration
        connection.renew()
        try:
            while True:
                piece, trailers = connection.ready()
                if trailers is not None:
                    self.trailers, self._connection = trailers, None
                    connection.done()
                    if not piece:
                        raise StopAsyncIteration
                if piece:
                    return piece
                await connection.more()
        except (OSError, h11.ProtocolError) as error:
            self.close()
            raise HostError(f"the attested machine: {_reason(error)}") from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


def _has_end(method: str, status: int, headers: Headers) -> bool:
    """False for an answer that ends with the connection: a truncated one would look complete."""
    framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
    return framed or method == "HEAD" or status in _WITHOUT_BODY


def _reason(error: Exception) -> str:
    return str(error)[:200] if isinstance(error, h11.ProtocolError) else reason(error)
