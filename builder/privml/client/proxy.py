"""A local OpenAI-compatible endpoint that forwards to an attested guest, or refuses and forwards nothing.

For each request the guests' gates are consulted before the body is read; the request then goes to one of the accepted
guests (`client.guests`). Logs contain verdicts, never parts of a request or a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from privml.base.errors import HostError, PrivmlError, Refused, UsageError
from privml.client.callers import METHODS, Callers, Guarded, error_response
from privml.client.connection import MAX_HEAD
from privml.client.gate import Decision
from privml.client.gathered import GatheringProtocol
from privml.client.guests import Guests, NotOpen
from privml.client.listening import port_sockets, served_socket
from privml.client.pages import Pages
from privml.client.receipts import SHOWN, Receipts
from privml.client.ways import Answer, Asked, Header, Headers
from privml.engines.registry import ENGINES

log = logging.getLogger("privml")

MAX_BODY = max(engine.requests.body for engine in ENGINES.values())
"""Bytes of a request, the most that any engine's guest takes."""
MAX_CONNECTIONS = 256
ANYBODY_HERE = Callers()
"""Every program of this machine, and no web page."""
BODY_TIMEOUT = 120.0
UNWATCHED = 0.05
START_TIMEOUT = 30.0
# The engine, and the image's own services.
_PREFIXES = ("/v1/", "/x/")
# Request headers that the guest needs. Credentials, cookies and client fingerprints are not forwarded.
_FORWARDED = (b"content-type", b"accept")
_RETURNED = (b"content-type", b"content-length", b"cache-control", b"retry-after", b"x-request-id", SHOWN)


class _Ended(PrivmlError):
    """End of a request with a status and an error in OpenAI's format."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        headers = {"Retry-After": "1"} if status == 503 else None
        self.response = error_response(status, kind, message, headers, **more)


def serve(
    listen: tuple[str, int] | Path,
    guests: Guests,
    *,
    callers: Callers = ANYBODY_HERE,
    listening: Callable[[int], None] | None = None,
    receipts: Receipts | None = None,
) -> None:
    """Verify ``guests`` and serve on ``listen``, (host, port) or the path of a Unix socket, until interrupted.

    A refused guest does not stop the proxy: clients are answered by another one, or get 403 with the reasons, and it
    is verified again on later requests. ``HostError`` if it cannot listen. ``listening`` is called with the port (0
    for a Unix socket), once it listens. With ``receipts``, whose `Receipts.watching` made the gates' check, each
    answer of an engine needs one.
    """
    if not isinstance(listen, Path):
        server(listen, guests, listening, callers, receipts).run()
        return
    with served_socket(listen) as listener:
        unix_server(guests, listening, callers, receipts).run(sockets=[listener])


def server(
    listen: tuple[str, int],
    guests: Guests,
    listening: Callable[[int], None] | None = None,
    callers: Callers = ANYBODY_HERE,
    receipts: Receipts | None = None,
) -> uvicorn.Server:
    """The HTTP server of `serve`, not yet running, with its port (0: any); ``HostError`` if that is taken."""
    host, port = listen
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise UsageError(f"{host}: the proxy listens only on this machine: expected 127.0.0.1 or ::1")
    return _server(application(guests, callers, receipts), listening, port_sockets(host, port))


def unix_server(
    guests: Guests,
    listening: Callable[[int], None] | None = None,
    callers: Callers = ANYBODY_HERE,
    receipts: Receipts | None = None,
) -> uvicorn.Server:
    """The HTTP server of `serve` for a socket that its ``run`` is given."""
    return _server(application(guests, replace(callers, unix=True), receipts), listening)


def _server(
    app: ASGIApp, listening: Callable[[int], None] | None, sockets: list[socket.socket] | None = None
) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=GatheringProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody forwards to it
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=30,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return _Server(config, listening, sockets)


class _Server(uvicorn.Server):
    """Runs on its own ``sockets`` unless it is given some, and says when it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: Callable[[int], None] | None,
        sockets: list[socket.socket] | None,
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._sockets = sockets

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or self._sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._listening is not None and sockets:
            first = sockets[0]
            self._listening(0 if first.family == socket.AF_UNIX else first.getsockname()[1])


def application(guests: Guests, callers: Callers = ANYBODY_HERE, receipts: Receipts | None = None) -> ASGIApp:
    """The ASGI application; its lifespan verifies at start and then at each of the gates' intervals.

    It starts to serve after the first accepted judgement, after all first ones, or after `START_TIMEOUT` seconds.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        first = asyncio.Event()
        task = asyncio.create_task(guests.keep_fresh(first))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), START_TIMEOUT)
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    forwarding = _Forwarding(guests, receipts)
    made = Starlette(
        routes=[
            *(Route(f"{prefix}{{path:path}}", forwarding, methods=METHODS) for prefix in _PREFIXES),
            Route("/healthz", partial(_health, guests), methods=["GET"]),
            *Pages(guests, receipts).routes,
        ],
        lifespan=lifespan,
    )

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        """Pass what carries the load by the application's layers, which it does not need."""
        if scope["type"] == "http" and scope["path"].startswith(_PREFIXES) and scope["method"] in METHODS:
            await forwarding(scope, receive, send)
        else:
            await made(scope, receive, send)

    return Guarded(routed, callers)


async def _health(guests: Guests, _: Request) -> Response:
    found = [{"url": guest.url, **_state(guest.gate.last)} for guest in guests.all]
    is_open = any(one["open"] for one in found)
    status = 200 if is_open else 503
    if len(found) == 1:
        return JSONResponse(_state(guests.all[0].gate.last), status)
    message = f"{sum(one['open'] for one in found)} of {len(found)} guests are accepted"
    return JSONResponse({"open": is_open, "message": message, "guests": found}, status)


def _state(last: Decision | None) -> dict[str, Any]:
    verdict = None if last is None or last.verdict is None else last.verdict.to_dict()
    message = "not verified yet" if last is None else last.message
    return {"open": last is not None and last.open, "message": message, "verdict": verdict}


class _Forwarding:
    """Requests to the guests: the part of the application that carries the load."""

    def __init__(self, guests: Guests, receipts: Receipts | None) -> None:
        self._guests = guests
        self._send = guests.send if receipts is None else partial(receipts.send, guests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            asked = await self._asked(scope, receive)
            with _WhileThere(receive):
                answer = await self._answer(asked)
                try:
                    await _relay(answer, send)
                finally:
                    answer.close()
        except _Ended as ended:
            await ended.response(scope, receive, send)

    async def _asked(self, scope: Scope, receive: Receive) -> Asked:
        """The request; the gates are consulted before its body is read."""
        request = Request(scope, receive)
        _check_head(request)
        with _ended():
            await self._guests.admit()
        body = await _body(request)
        return Asked(request.method, _target(request), _first_of(_FORWARDED, scope["headers"]), body)

    async def _answer(self, asked: Asked) -> Answer:
        with _ended():
            return await self._send(asked)


class _WhileThere:
    """A block that ends without an error when the client disconnects, wherever it waits. The body has been read.

    One that ends within `UNWATCHED` seconds ends by itself: a task for each such request costs more than it spares.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watching: asyncio.Task[None] | None = None
        self._begins = asyncio.get_running_loop().call_later(UNWATCHED, self._begin)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._begins.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if not self._left or kind is not asyncio.CancelledError:
            return False
        self._task.uncancel()
        return True

    def _begin(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self._receive()
        self._left = True
        self._task.cancel()


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """What the client is told when no guest answers."""
    try:
        yield
    except NotOpen as closed:
        if closed.unavailable:
            raise _Ended(503, "attestation_unavailable", closed.message) from closed
        refusals = [refusal.to_dict() for refusal in closed.refusals]
        raise _Ended(403, "attestation_refused", closed.message, refusals=refusals) from closed
    except Refused as refused:
        raise _Ended(403, "attestation_refused", refused.message, refusals=[]) from refused
    except HostError as error:
        raise _Ended(502, "upstream_unavailable", error.message) from error


async def _relay(answer: Answer, send: Send) -> None:
    """Stream the guest's answer: what is ready is one piece, and none waits for the next."""
    headers = list(_first_of(_RETURNED, answer.headers))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    try:
        async for piece in answer.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except HostError as error:
        # The status is already sent: a broken connection is the only sign that the response is incomplete.
        cause = type(error.__cause__ or error).__name__
        log.warning("the attested machine stopped in the middle of a response: %s", cause)
        raise ConnectionAbortedError from error
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _first_of(names: Sequence[bytes], headers: Iterable[Header]) -> Headers:
    """The first header of each of these names."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in names:
            found.setdefault(name, value)
    return tuple(found.items())


def _check_head(request: Request) -> None:
    # The HTTP library limits only incomplete heads, not one that arrived in a single read.
    size = sum(len(name) + len(value) for name, value in request.scope["headers"])
    if size + len(request.scope["raw_path"]) + len(request.scope["query_string"]) > MAX_HEAD:
        raise _Ended(431, "headers_too_large", f"request head larger than {MAX_HEAD} bytes")


async def _body(request: Request) -> bytes:
    too_large = _Ended(413, "request_too_large", f"body larger than {MAX_BODY} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError as error:
        raise _Ended(408, "request_timeout", f"no complete body within {BODY_TIMEOUT:g} s") from error
    except ClientDisconnect as error:
        raise _Ended(400, "request_aborted", "the client disconnected") from error
    return bytes(body)


def _target(request: Request) -> str:
    raw: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    target = (raw + (b"?" + query if query else b"")).decode("ascii", "replace")
    dots = any(unquote(segment) in (".", "..") for segment in raw.decode("ascii", "replace").split("/"))
    if dots or not target.startswith(_PREFIXES) or not target.isascii() or not target.isprintable():
        raise _Ended(400, "invalid_path", f"expected a plain ASCII path under {' or '.join(_PREFIXES)}")
    return target
