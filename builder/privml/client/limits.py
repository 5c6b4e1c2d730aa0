"""An HTTP server for callers anywhere: silent and slow connections end, and one address cannot take all places.

uvicorn has no deadline for a head or a body. Here each connection has one in total for TLS handshake and head, which
no byte extends, and one for the body; both end with its socket, so they hold whatever protocol is on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from privml.base.peers import group

MAX_HEAD = 16 * 1024


@dataclass(frozen=True)
class Limits:
    """How many connections are open in all and from one address, and the seconds for a head and for a body."""

    connections: int
    of_one: int
    head: float = 10.0
    body: float = 30.0


class Server(uvicorn.Server):
    """Serves ``app`` within ``limits`` on the sockets that ``run`` is given; with ``tls``, a certificate and its key.

    ``run`` takes the sockets over.
    """

    def __init__(self, app: ASGIApp, limits: Limits, tls: tuple[Path, Path] | None = None) -> None:
        self._connections = Connections(limits)
        super().__init__(
            uvicorn.Config(
                self._connections.timed(app),
                loop="asyncio",  # another loop may accept without asking the socket
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a connection is found by its peer's address
                h11_max_incomplete_event_size=MAX_HEAD,
                timeout_keep_alive=math.ceil(limits.head),
                ssl_certfile=None if tls is None else str(tls[0]),
                ssl_keyfile=None if tls is None else str(tls[1]),
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until interrupted or ``should_exit``."""
        with contextlib.ExitStack() as closed:
            super().run([closed.enter_context(_Listener(each, self._connections)) for each in sockets or ()])


class Connections:
    """The open connections of one server. Used in its event loop only.

    When all places are taken, a new connection takes that of the one that has been sending its head or body for the
    longest time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Any, _Connection] = {}
        self._of: Counter[str] = Counter()

    def admit(self, made: socket.socket, peer: Any) -> _Connection | None:
        """The connection with a place and the deadline for its head; None if there is none left."""
        source = group(peer[0])
        if self._of[source] >= self.limits.of_one:
            return None
        if len(self._open) >= self.limits.connections:
            slow = [each for each in self._open.values() if each.since is not None]
            if not slow:
                return None
            min(slow, key=lambda each: each.since or 0.0).cut()
        found = _Connection(made, self, peer[:2])
        self._open[found.peer] = found
        self._of[source] += 1
        found.within(self.limits.head)
        return found

    def leave(self, ended: _Connection) -> None:
        """Give the connection's place back, if it has it still."""
        if self._open.get(ended.peer) is not ended:
            return
        del self._open[ended.peer]
        source = group(ended.peer[0])
        self._of[source] -= 1
        if not self._of[source]:
            del self._of[source]

    def timed(self, app: ASGIApp) -> ASGIApp:
        """``app`` with the deadlines of its connections."""

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            found = self._open.get(tuple(scope.get("client") or ()))
            if found is None:
                await app(scope, receive, send)
                return

            async def received() -> Message:
                message = await receive()
                if not message.get("more_body", False):
                    found.within(None)
                return message

            found.within(self.limits.body)
            try:
                await app(scope, received, send)
            finally:
                found.within(self.limits.head)

        return limited


class _Listener(socket.socket):
    """Takes over a socket that is bound, and accepts within the limits."""

    def __init__(self, bound: socket.socket, connections: Connections) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        made, peer = super().accept()
        found = self._connections.admit(made, peer)
        if found is None:
            made.close()
            raise ConnectionAbortedError  # as if the caller had gone, which an event loop takes
        return found, peer


class _Connection(socket.socket):
    """One connection, which gives its place back when it is closed.

    ``since`` is when its present deadline began; None while it has none.
    """

    def __init__(self, made: socket.socket, connections: Connections, peer: Any) -> None:
        super().__init__(made.family, made.type, made.proto, fileno=made.detach())
        self.peer = peer
        self.since: float | None = None
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float | None) -> None:
        """Cut the connection after ``seconds``, instead of any deadline before; None: no deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.since = None, None
        if seconds is not None and self.fileno() >= 0:
            loop = asyncio.get_running_loop()
            self._timer, self.since = loop.call_later(seconds, self.cut), loop.time()

    def cut(self) -> None:
        """End the connection; its event loop finds it ended and closes it."""
        self.within(None)
        self._connections.leave(self)
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connections.leave(self)
        super().close()
        self.within(None)
