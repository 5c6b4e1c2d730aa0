"""Serve what is cached of AMD's on the routes of its key distribution service, for callers that cannot reach AMD.

Source of routes: AMD VCEK Certificate and KDS Interface Specification (57230). A caller checks what it gets against
AMD's roots (`client.kds`), so nothing is checked here but that a revocation list has not expired.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from anyio.to_thread import run_sync
from cryptography import x509
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from privml.client import collateral as cached
from privml.client.collateral import Clock
from privml.client.kds import PARTS, Machine
from privml.evidence.certificates import UNREADABLE
from privml.evidence.snp import collateral as fields_of
from privml.evidence.snp.leaf import MAX_SIZE
from privml.evidence.snp.report import SIGNING_KEYS, VCEK
from privml.evidence.snp.tcb import PRODUCTS, Product

log = logging.getLogger("privml")

_NUMBER = re.compile(r"[0-9]{1,3}")
_ROLES = {"vcek": "VCEK", "vlek": "VLEK"}


def routes(folder: Path, clock: Clock) -> list[Route]:
    """The routes over ``folder``, the cache's part of AMD; it is read again for each request."""

    async def answer(request: Request) -> Response:
        response = await run_sync(_answer, folder, request.path_params, request.query_params, int(clock()))
        log.info("%s: %d", request.url.path, response.status_code)
        return response

    return [Route("/{role}/v1/{product}/{what}", answer, methods=["GET"])]


def _answer(folder: Path, path: Mapping[str, str], query: Mapping[str, str], now: int) -> Response:
    role, product, what = _ROLES.get(path["role"]), PRODUCTS.get(path["product"]), path["what"]
    if role is None or product is None:
        return PlainTextResponse("no such kind of key or product", 404)
    machine = Machine(role, product, b"", {})
    if what == "cert_chain":
        data = cached.content(folder / f"{machine.issuers_name}-chain.pem", fields_of.MAX_FIELD)
        return _sent(data, "application/x-pem-file")
    if what == "crl":
        data = cached.content(folder / f"{machine.issuers_name}.crl", fields_of.MAX_FIELD)
        return _sent(data if data is not None and _current(data, now) else None, "application/pkix-crl")
    if role != SIGNING_KEYS[VCEK]:
        return PlainTextResponse("a fleet's certificate is sent by its guests", 404)
    asked = _machine(product, what, query)
    if asked is None:
        return PlainTextResponse("expected a chip's id and its TCB version, part by part", 400)
    return _sent(cached.content(folder / f"{asked.leaf_name}.der", MAX_SIZE), "application/octet-stream")


def _machine(product: Product, chip: str, query: Mapping[str, str]) -> Machine | None:
    """The machine of a request for its certificate; None for a malformed one."""
    words = {part: query.get(word, "") for part, word in PARTS if part in product.parts}
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * product.chip_id}}}", chip):
        return None
    if not all(_NUMBER.fullmatch(word) and int(word) < 256 for word in words.values()):
        return None
    tcb = {part: int(word) for part, word in words.items()}
    return Machine(SIGNING_KEYS[VCEK], product, bytes.fromhex(chip), tcb)


def _current(data: bytes, now: int) -> bool:
    try:
        until = x509.load_der_x509_crl(data).next_update_utc
    except UNREADABLE:
        return False
    return until is not None and now <= until.timestamp()


def _sent(data: bytes | None, kind: str) -> Response:
    if data is None:
        return PlainTextResponse("it is not cached: run `privml-build collateral fetch`", 404)
    return Response(data, media_type=kind)
