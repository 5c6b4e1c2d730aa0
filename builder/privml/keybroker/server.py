"""The broker's HTTP server: ``POST /v1/challenge`` and ``POST /v1/release``. Nothing is administered over it.

TLS only hides who asks for which resource: what a guest gets is sealed to it and signed by the broker.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anyio import CapacityLimiter, WouldBlock
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from privml.base.errors import HostError
from privml.client.limits import Limits, Server
from privml.client.listening import listening_sockets
from privml.keybroker.broker import MAX_REQUEST, Answer, Broker, error

CHALLENGE = "/v1/challenge"
RELEASE = "/v1/release"
LIMITS = Limits(connections=256, of_one=64)
VERDICTS = 4
"""How many documents are judged at the same time; others are answered 503."""
_BUSY = error(503, "busy", "the broker judges other documents now", retry_after=1)


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the server's certificate with its chain, and its private key."""

    certificate: Path
    key: Path


def application(broker: Broker) -> Starlette:
    """The ASGI application over ``broker``."""
    limiter = CapacityLimiter(VERDICTS)

    async def challenge(_: Request) -> Response:
        return _response(broker.challenge())

    async def release(request: Request) -> Response:
        try:
            body = await _body(request)
        except ClientDisconnect:
            return _response(error(400, "release-request", "the request ended early"))
        if body is None:
            return _response(error(413, "release-request", f"the request has more than {MAX_REQUEST} bytes"))
        try:
            limiter.acquire_on_behalf_of_nowait(request)
        except WouldBlock:
            return _response(_BUSY)
        try:
            return _response(await run_sync(broker.release, body))
        finally:
            limiter.release_on_behalf_of(request)

    return Starlette(
        routes=[Route(CHALLENGE, challenge, methods=["POST"]), Route(RELEASE, release, methods=["POST"])]
    )


async def _body(request: Request) -> bytes | None:
    """The request's body; None if it is too large."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_REQUEST:
            return None
    return bytes(found)


def _response(answer: Answer) -> Response:
    headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
    return Response(answer.body, answer.status, {"Cache-Control": "no-store", **headers}, "application/json")


def server(broker: Broker, tls: Tls | None = None) -> Server:
    """The HTTP server of `serve`, not yet running."""
    return Server(application(broker), LIMITS, None if tls is None else (tls.certificate, tls.key))


def serve(
    listen: tuple[str, int], broker: Broker, *, tls: Tls | None = None, listening: Callable[[int], None] | None = None
) -> None:
    """Serve on ``listen`` (host, port) until interrupted.

    ``HostError`` if it cannot listen there, or the files of ``tls`` are not a certificate and its key. ``listening``
    is called with the port.
    """
    made = server(broker, tls)
    try:
        made.config.load()
    except ssl.SSLError as error:
        raise HostError(
            f"--tls-cert and --tls-key are not a certificate and its key: {error.reason or error}"
        ) from error
    with listening_sockets(*listen) as bound:
        if listening is not None:
            listening(bound[0].getsockname()[1])
        made.run(sockets=bound)
