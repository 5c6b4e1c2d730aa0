"""Serve cached collateral on the routes of a PCCS and of AMD's service, for callers that reach neither. Read-only.

A caller checks what it gets against the vendor's root, so the server needs neither TLS nor trust. Expired collateral
is not served. The query ``update`` is ignored: there is one record for each platform.
"""

from __future__ import annotations

import logging
import time
import urllib.parse
from collections.abc import Callable, Iterable

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from privml.base.errors import EvidenceError
from privml.client import kds, kdsroutes, pcs
from privml.client.collateral import Anchor, Cache, Clock, Entry
from privml.client.limits import Limits, Server
from privml.client.listening import listening_sockets
from privml.evidence.tdx.platform import Platform

log = logging.getLogger("privml")

LIMITS = Limits(connections=64, of_one=16)

Choice = Callable[[Request, list[Entry]], Response]


def application(cache: Cache, among: tuple[Anchor, ...], clock: Clock = time.time) -> Starlette:
    """The ASGI application over ``cache``; it reads the cache again for each request."""

    def route(path: str, choose: Choice) -> Route:
        async def answer(request: Request) -> Response:
            now = int(clock())
            entries = await run_sync(lambda: [each for each in cache.entries(among) if not each.expired(now)])
            response = choose(request, entries)
            log.info("%s %s: %d", request.url.path, request.url.query, response.status_code)
            return response

        return Route(path, answer, methods=["GET"])

    return Starlette(
        routes=[
            *kdsroutes.routes(cache.directory / kds.FOLDER, clock),
            route(f"{pcs.SGX}/pckcrl", _pck_crl),
            route(f"{pcs.SGX}/rootcacrl", _root_crl),
            route(f"{pcs.TDX}/tcb", _tcb_info),
            route(f"{pcs.TDX}/qe/identity", _qe_identity),
        ]
    )


def serve(
    listen: tuple[str, int], cache: Cache, among: tuple[Anchor, ...], listening: Callable[[int], None] | None = None
) -> None:
    """Serve ``cache`` on ``listen`` (host, port) until interrupted; ``HostError`` if it cannot listen there.

    ``listening`` is called with the port.
    """
    with listening_sockets(*listen) as bound:
        if listening is not None:
            listening(bound[0].getsockname()[1])
        server(cache, among).run(sockets=bound)


def server(cache: Cache, among: tuple[Anchor, ...], clock: Clock = time.time) -> Server:
    """The HTTP server of `serve`, not yet running."""
    return Server(application(cache, among, clock), LIMITS)


def _pck_crl(request: Request, entries: list[Entry]) -> Response:
    ca = request.query_params.get("ca", "")
    entry = _newest(each for each in entries if each.platform.ca == ca)
    if entry is None:
        return _absent(f"no PCK revocation list of CA `{ca[:20]}` is cached")
    der = bytes.fromhex(entry.fields["pck_crl"])
    sent = der if request.query_params.get("encoding") == "der" else der.hex().encode()
    return _answer(sent, "application/pkix-crl", pcs.PCK_CRL_CHAIN, entry.fields["pck_crl_issuer_chain"])


def _root_crl(_: Request, entries: list[Entry]) -> Response:
    entry = _newest(entries)
    if entry is None:
        return _absent("no collateral is cached")
    return PlainTextResponse(entry.fields["root_ca_crl"], media_type="application/pkix-crl")


def _tcb_info(request: Request, entries: list[Entry]) -> Response:
    fmspc = request.query_params.get("fmspc", "")
    try:
        named = Platform.of(fmspc, "platform").fmspc
    except EvidenceError as error:
        return PlainTextResponse(error.message, 400)
    entry = _newest(each for each in entries if each.platform.fmspc == named)
    if entry is None:
        return _absent(f"no TCB info of FMSPC {named.upper()} is cached")
    return _signed(entry, "tcbInfo", "tcb_info", pcs.TCB_INFO_CHAIN)


def _qe_identity(_: Request, entries: list[Entry]) -> Response:
    entry = _newest(entries)
    return (
        _absent("no collateral is cached")
        if entry is None
        else _signed(entry, "enclaveIdentity", "qe_identity", pcs.QE_IDENTITY_CHAIN)
    )


def _newest(entries: Iterable[Entry]) -> Entry | None:
    return max(entries, key=lambda each: (each.contents.evaluation_number, each.fetched), default=None)


def _absent(reason: str) -> Response:
    return PlainTextResponse(f"{reason}: run `privml-build collateral fetch`", 404)


def _signed(entry: Entry, member: str, field: str, header: str) -> Response:
    """Intel's envelope around a signed text, which is not written again."""
    body = f'{{"{member}":{entry.fields[field]},"signature":"{entry.fields[f"{field}_signature"]}"}}'
    return _answer(body.encode(), "application/json", header, entry.fields[f"{field}_issuer_chain"])


def _answer(body: bytes, kind: str, header: str, chain: str) -> Response:
    return Response(body, media_type=kind, headers={header: urllib.parse.quote(chain)})
