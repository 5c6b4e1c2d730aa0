"""What the local proxy shows of its guests: a page for a person at ``/``, and JSON for programs at ``/privml/``.

Nothing here sends a prompt or starts a verification. `client.callers` keeps web pages of other origins out, also
those that may use the guests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from privml.base.errors import EvidenceError, HostError
from privml.client import page, stages
from privml.client.behind import ChannelGate
from privml.client.callers import VERDICT_PATHS, error_response
from privml.client.gate import Decision
from privml.client.guests import Guest, Guests
from privml.client.page import Without
from privml.client.pagestyle import POLICY
from privml.client.receipts import Receipts
from privml.events.stagetable import StageTable
from privml.verify.measured import columns

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REFRESH = 30
"""Seconds after which a browser loads the page again."""
REFRESH_SHUT = 5
"""The same while no guest is accepted."""
STAGES_TIMEOUT = 2.0
STAGES_AGE = 10.0
"""Seconds for which a guest is not asked for its stages again."""


class Pages:
    """The routes of one proxy. They run on one event loop."""

    def __init__(self, guests: Guests, receipts: Receipts | None = None) -> None:
        self._guests = guests
        self._receipts = receipts
        self._stages: dict[str, tuple[float, StageTable | None]] = {}
        self._asking: dict[str, asyncio.Lock] = {guest.url: asyncio.Lock() for guest in guests.all}

    @property
    def routes(self) -> list[Route]:
        """One route for each of `VERDICT_PATHS`."""
        made = (self._page, self._verdict, self._all)
        return [Route(path, answer, methods=["GET"]) for path, answer in zip(VERDICT_PATHS, made, strict=True)]

    async def _page(self, _: Request) -> Response:
        found = [one for each in await asyncio.gather(*map(self._shown, self._guests.all)) for one in each]
        refresh = REFRESH if self._guests.judged else REFRESH_SHUT
        receipts = () if self._receipts is None else self._receipts.last
        make = partial(page.guests_page, found, now=int(time.time()), refresh=refresh, receipts=receipts)
        # In a thread, because the host of a refused guest controls the size of what is compared.
        made = await run_sync(make)
        return HTMLResponse(made, headers=HEADERS)

    async def _verdict(self, request: Request) -> Response:
        wanted = request.query_params.get("guest")
        guest = self._guest(wanted)
        if guest is None:
            known = ", ".join(guest.url for guest in self._guests.all)
            return error_response(
                404, "guest_unknown", f"guest: got {wanted!r:.80}, expected one of {known}", HEADERS
            )
        return JSONResponse(await run_sync(_detail, guest), headers=HEADERS)

    async def _all(self, _: Request) -> Response:
        found = await asyncio.gather(*map(self._stages_of, self._guests.all))
        rows = [
            {**_summary(guest, decision), "stages": None if table is None else stages.table_json(table)}
            for guest, table in zip(self._guests.all, found, strict=True)
            for decision in _decisions(guest)
        ]
        return JSONResponse({"guests": rows}, headers=HEADERS)

    def _guest(self, wanted: str | None) -> Guest | None:
        """The guest at the address ``wanted``; without one, the first that may get a request, or the first."""
        every = self._guests.all
        if wanted is not None:
            return next((guest for guest in every if guest.url == wanted), None)
        return next((guest for guest in every if (last := guest.gate.last) is not None and last.open), every[0])

    async def _shown(self, guest: Guest) -> list[page.Guest]:
        """The guest, or all that were found behind one address."""
        table = await self._stages_of(guest)
        return [
            page.Guest(
                url=guest.url,
                message="" if decision is None else decision.message,
                judgement=None if decision is None else decision.judgement,
                without=_without(decision),
                verified_at=_verified_at(guest, decision),
                stages=table,
            )
            for decision in _decisions(guest)
        ]

    async def _stages_of(self, guest: Guest) -> StageTable | None:
        """The boot stages as the guest gave them at most `STAGES_AGE` seconds ago; None if it did not answer.

        None, too, behind somebody else's TLS server: nobody knows which guest would answer.
        """
        if isinstance(guest.gate, ChannelGate):
            return None
        async with self._asking[guest.url]:
            asked, found = self._stages.get(guest.url, (float("-inf"), None))
            if time.monotonic() - asked >= STAGES_AGE:
                try:
                    found = await run_sync(stages.fetch, guest.gate.upstream, STAGES_TIMEOUT)
                except (HostError, EvidenceError):
                    found = None
                self._stages[guest.url] = (time.monotonic(), found)
            return found


def _decisions(guest: Guest) -> Sequence[Decision | None]:
    """The decision in force, or one for each guest that was found behind one address."""
    last = guest.gate.last
    return (None,) if last is None else last.each


def _without(last: Decision | None) -> Without:
    if last is None:
        return Without.FIRST
    return Without.UNAVAILABLE if last.unavailable else Without.MALFORMED


def _summary(guest: Guest, decision: Decision | None) -> dict[str, Any]:
    verdict = None if decision is None else decision.verdict
    return {
        "url": guest.url,
        "state": (_without(decision) if verdict is None else verdict.outcome).value,
        "open": decision is not None and decision.open,
        "message": "not verified yet" if decision is None else decision.message,
        "verified_at": _verified_at(guest, decision),
        "refusals": [] if decision is None else [refusal.code for refusal in decision.refusals],
    }


def _detail(guest: Guest) -> Mapping[str, Any]:
    last = guest.gate.last
    judgement = None if last is None else last.judgement
    return {
        **_summary(guest, last),
        "verdict": None if judgement is None else judgement.verdict.to_dict(),
        "registers": [] if judgement is None else [column.to_dict() for column in columns(judgement)],
    }


def _verified_at(guest: Guest, decision: Decision | None) -> int | None:
    """Unix seconds at which the verification of ``decision`` began."""
    return None if decision is None else int(time.time() - guest.gate.age(decision))
