"""A local OpenAI-compatible endpoint that forwards to an attested guest, or refuses and forwards nothing.

For each request the gate is consulted before the body is read; the request is then sent over a new TLS connection
that is checked against the attested key. Logs contain verdicts, never parts of a request or a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from anyio.to_thread import current_default_thread_limiter, run_sync
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from privml.base.errors import HostError, PrivmlError, Refused, UsageError
from privml.client.callers import METHODS, Callers, Guarded, error_response
from privml.client.connection import MAX_HEAD, AttestedConnection, reason
from privml.client.gate import INTERVAL, MAX_AGE, Check, Decision, Gate
from privml.client.listening import served_socket
from privml.engines.registry import ENGINES

log = logging.getLogger("privml")

MAX_BODY = max(engine.requests.body for engine in ENGINES.values())
"""Bytes of a request, the most that any engine's guest takes."""
MAX_CONNECTIONS = 256
ANYBODY_HERE = Callers()
"""Every program of this machine, and no web page."""
BODY_TIMEOUT = 120.0
START_TIMEOUT = 30.0
ANSWER_TIMEOUT = 900.0
"""Seconds from connecting to the guest to the end of its response's head, and then for each piece of the body."""
_PIECE = 64 * 1024
# The engine, and the image's own services.
_PREFIXES = ("/v1/", "/x/")
# Request headers that the guest needs. Credentials, cookies and client fingerprints are not forwarded.
_FORWARDED = ("content-type", "accept")
_RETURNED = ("content-type", "content-length", "cache-control", "retry-after", "x-request-id")


class _Answer(PrivmlError):
    """End of a request with a status and an error in OpenAI's format."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        headers = {"Retry-After": "1"} if status == 503 else None
        self.response = error_response(status, kind, message, headers, **more)


def serve(
    listen: tuple[str, int] | Path,
    upstream: str,
    check: Check,
    *,
    callers: Callers = ANYBODY_HERE,
    interval: float = INTERVAL,
    max_age: float = MAX_AGE,
    listening: Callable[[int], None] | None = None,
) -> None:
    """Verify ``upstream`` and serve on ``listen``, (host, port) or the path of a Unix socket, until interrupted.

    ``check`` judges a fetched document (`client.gate.Check`). A refused upstream does not stop the proxy: clients get
    403 with the reasons, and the upstream is verified again on later requests. ``HostError`` if it cannot listen.
    ``listening`` is called with the port (0 for a Unix socket), once it listens.
    """
    gate = Gate(upstream, check, interval=interval, max_age=max_age)
    if not isinstance(listen, Path):
        server(listen, gate, listening, callers).run()
        return
    with served_socket(listen) as listener:
        unix_server(gate, listening, callers).run(sockets=[listener])


def server(
    listen: tuple[str, int],
    gate: Gate,
    listening: Callable[[int], None] | None = None,
    callers: Callers = ANYBODY_HERE,
) -> uvicorn.Server:
    """The HTTP server of `serve`, not yet running (port 0: any)."""
    host, port = listen
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise UsageError(f"{host}: the proxy listens only on this machine: expected 127.0.0.1 or ::1")
    return _server(application(gate, callers), listening, host=host, port=port)


def unix_server(
    gate: Gate, listening: Callable[[int], None] | None = None, callers: Callers = ANYBODY_HERE
) -> uvicorn.Server:
    """The HTTP server of `serve` for a socket that its ``run`` is given."""
    return _server(application(gate, replace(callers, unix=True)), listening)


def _server(app: ASGIApp, listening: Callable[[int], None] | None, **address: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        **address,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=30,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return _Server(config, listening)


class _Server(uvicorn.Server):
    """Raise an error if binding fails; uvicorn would exit the process."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[int], None] | None) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[Any] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as error:
            raise HostError(f"cannot listen on {self.config.host}:{self.config.port}") from error
        if self.started and self._listening is not None:
            self._listening(0 if sockets else self.servers[0].sockets[0].getsockname()[1])


def application(gate: Gate, callers: Callers = ANYBODY_HERE) -> ASGIApp:
    """The ASGI application; its lifespan verifies at start and then at each of the gate's intervals.

    It starts to serve after the first verification, or after `START_TIMEOUT` seconds without a result.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Each open response occupies a thread; with the default of 40, slow ones could block calls to the gate.
        current_default_thread_limiter().total_tokens = 2 * MAX_CONNECTIONS
        first = asyncio.Event()
        task = asyncio.create_task(_keep_fresh(gate, first))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), START_TIMEOUT)
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    made = Starlette(
        routes=[
            *(Route(f"{prefix}{{path:path}}", partial(_answer, gate), methods=METHODS) for prefix in _PREFIXES),
            Route("/healthz", partial(_health, gate), methods=["GET"]),
        ],
        lifespan=lifespan,
    )
    return Guarded(made, callers)


async def _keep_fresh(gate: Gate, first: asyncio.Event) -> None:
    fresh = False  # a gate that was asked before it was given to a server need not verify twice
    while True:
        try:
            await run_sync(partial(gate.decide, fresh=fresh), abandon_on_cancel=True)
        except Exception:
            # The gate is closed now, and each request consults it again; only the timer must continue.
            log.exception("%s: cannot be verified", gate.upstream.url)
        first.set()
        await asyncio.sleep(gate.interval)
        fresh = True


async def _health(gate: Gate, _: Request) -> Response:
    last = gate.last
    verdict = None if last is None or last.verdict is None else last.verdict.to_dict()
    is_open = last is not None and last.open
    message = "not verified yet" if last is None else last.message
    return JSONResponse({"open": is_open, "message": message, "verdict": verdict}, 200 if is_open else 503)


async def _answer(gate: Gate, request: Request) -> Response:
    try:
        _check_head(request)
        decision = await run_sync(gate.decide)
        _must_be_open(decision)
        connection = await _connect(gate, decision)
        try:
            return await _forward(connection, request)
        except BaseException:
            connection.abort()
            raise
    except _Answer as answer:
        return answer.response


def _check_head(request: Request) -> None:
    # The HTTP library limits only incomplete heads, not one that arrived in a single read.
    size = sum(len(name) + len(value) for name, value in request.scope["headers"])
    if size + len(request.scope["raw_path"]) + len(request.scope["query_string"]) > MAX_HEAD:
        raise _Answer(431, "headers_too_large", f"request head larger than {MAX_HEAD} bytes")


def _must_be_open(decision: Decision) -> None:
    if decision.open:
        return
    if decision.unavailable:
        raise _Answer(503, "attestation_unavailable", decision.message)
    refusals = [refusal.to_dict() for refusal in decision.refusals]
    raise _Answer(403, "attestation_refused", decision.message, refusals=refusals)


async def _connect(gate: Gate, decision: Decision) -> AttestedConnection:
    """A pinned connection. A different key means a new boot, so the upstream is then verified again from scratch."""
    connect = partial(gate.connect, timeout=ANSWER_TIMEOUT)
    try:
        try:
            return await run_sync(connect, decision)
        except Refused:
            decision = await run_sync(partial(gate.decide, not_keys=decision.keys))
            _must_be_open(decision)
            return await run_sync(connect, decision)
    except Refused as refused:
        raise _Answer(403, "attestation_refused", refused.message, refusals=[]) from refused
    except OSError as error:
        why = f"no connection to the attested machine: {reason(error)}"
        raise _Answer(502, "upstream_unavailable", why) from error


async def _forward(connection: AttestedConnection, request: Request) -> Response:
    body = await _body(request)
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    connection.deadline.renew(ANSWER_TIMEOUT)
    try:
        send = partial(connection.request, request.method, _target(request), body, headers)
        await run_sync(send, abandon_on_cancel=True)
        response = await run_sync(connection.getresponse, abandon_on_cancel=True)
    except (OSError, http.client.HTTPException) as error:
        raise _Answer(502, "upstream_unavailable", f"the attested machine: {reason(error)}") from error
    if not response.chunked and response.length is None:
        # Without a length, a truncated response would look complete.
        raise _Answer(502, "upstream_unavailable", "the attested machine sent a response without a length")
    kept = {name: value for name in _RETURNED if (value := response.getheader(name)) is not None}
    return _Relay(connection, response, kept)


class _Relay(StreamingResponse):
    """Stream the guest's response; its connection is closed at the end or when the client disconnects."""

    def __init__(
        self, connection: AttestedConnection, response: http.client.HTTPResponse, headers: dict[str, str]
    ) -> None:
        super().__init__(_pieces(connection, response), response.status, headers)
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._connection.abort()


async def _pieces(connection: AttestedConnection, response: http.client.HTTPResponse) -> AsyncIterator[bytes]:
    def next_piece() -> bytes:
        # An answer may be long, but no piece of it, nor what stands between two, may take longer than this.
        connection.deadline.renew(ANSWER_TIMEOUT)
        return response.read1(_PIECE)

    left = None if response.chunked else response.length
    try:
        while piece := await run_sync(next_piece, abandon_on_cancel=True):
            left = None if left is None else left - len(piece)
            yield piece
        if left:
            raise http.client.IncompleteRead(b"", left)
    except (OSError, http.client.HTTPException) as error:
        # The status is already sent: a broken connection is the only sign that the response is incomplete.
        log.warning("the attested machine stopped in the middle of a response: %s", type(error).__name__)
        raise ConnectionAbortedError from error


async def _body(request: Request) -> bytes:
    too_large = _Answer(413, "request_too_large", f"body larger than {MAX_BODY} bytes")
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
        raise _Answer(408, "request_timeout", f"no complete body within {BODY_TIMEOUT:g} s") from error
    except ClientDisconnect as error:
        raise _Answer(400, "request_aborted", "the client disconnected") from error
    return bytes(body)


def _target(request: Request) -> str:
    raw: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    target = (raw + (b"?" + query if query else b"")).decode("ascii", "replace")
    dots = any(unquote(segment) in (".", "..") for segment in raw.decode("ascii", "replace").split("/"))
    if dots or not target.startswith(_PREFIXES) or not target.isascii() or not target.isprintable():
        raise _Answer(400, "invalid_path", f"expected a plain ASCII path under {' or '.join(_PREFIXES)}")
    return target
