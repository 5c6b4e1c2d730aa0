"""The judged guests of one proxy, and the one place where a request is sent to a guest.

Every guest has its own gate. A request goes to the least busy guest among those with an accepted judgement, and never
to another; one that failed is left until it has been verified again, as long as there is another. A request that one
guest surely did not process goes to the next; one that it may have processed does not. Of 429 and 503 only those that
the guest's agent gives say so: a service of the image may answer them after it did something.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from anyio.to_thread import run_sync

from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError
from privml.base.strictjson import loads
from privml.client.direct import Direct
from privml.client.gate import INTERVAL, MAX_AGE, Check, Decision, Gate
from privml.client.sealing import Sealed, only
from privml.client.ways import Answer, Asked, Judged, Unsent, Way
from privml.verify.verdict import Refusal

log = logging.getLogger("privml")

MAX_GUESTS = 16
_OWN = b"x-privml-"
"""The beginning of the names of headers that only this side sets, as that of a checked receipt."""
_ELSEWHERE = (429, 503)
"""Statuses with which an agent refuses a request before it is processed: another guest may be asked."""
_AGENT = "privml"
"""The type of an agent's errors."""
_MAX_REFUSAL = 256 * 1024
"""Bytes of an agent's refusal. One before the machine is ready has its stages."""


class NotOpen(PrivmlError):
    """No guest may get a request: none has an accepted judgement in force.

    ``unavailable`` if a guest may have one soon, ``refusals`` if all were refused.
    """

    def __init__(self, decisions: Sequence[tuple[str, Decision]]) -> None:
        texts = [one.message if len(decisions) == 1 else f"{url}: {one.message}" for url, one in decisions]
        super().__init__("; ".join(texts))
        self.unavailable = any(one.unavailable for _, one in decisions)
        self.refusals: tuple[Refusal, ...] = tuple(refusal for _, one in decisions for refusal in one.refusals)


class Guest:
    """One guest: its gate, the way to it (by default direct and sealed), and how many answers are open (``busy``)."""

    def __init__(self, gate: Gate, way: Way | None = None) -> None:
        self.gate = gate
        self.way: Way = way or Sealed(Direct(gate.upstream))
        self.busy = 0
        self.turn = 0
        """The number of the last request that it was asked; the first is 1."""
        self._failed: Decision | None = None

    @property
    def url(self) -> str:
        """The address that the guest is verified at."""
        return self.gate.upstream.url

    def failed(self, decision: Decision) -> None:
        """A request failed under ``decision``: the guest is not well until there is a newer one."""
        self._failed = decision

    def well(self, decision: Decision) -> bool:
        """True unless a request failed under this very decision."""
        return decision is not self._failed


class Guests:
    """Guests that serve the same model, under one policy. `send` and `keep_fresh` run on one event loop."""

    def __init__(self, guests: Iterable[Guest]) -> None:
        self.all = tuple(guests)
        if not 1 <= len(self.all) <= MAX_GUESTS:
            raise UsageError(f"got {len(self.all)} guests, expected 1 to {MAX_GUESTS}")
        if len({guest.url for guest in self.all}) < len(self.all):
            raise UsageError("the address of a guest is given twice, expected each once")
        self._turns = itertools.count(1)
        self.present: Callable[[Asked, Judged], tuple[Asked, Judged]] = _as_it_is
        """What is added to a request once it is known which judged guests may get it, and which of them then may."""

    @classmethod
    def at(cls, urls: Iterable[str], check: Check, *, interval: float = INTERVAL, max_age: float = MAX_AGE) -> Guests:
        """The guests at these addresses, each with a gate of its own and reached directly."""
        return cls(Guest(Gate(url, check, interval=interval, max_age=max_age)) for url in urls)

    @property
    def judged(self) -> tuple[Judged, ...]:
        """The guests whose accepted judgement is in force now."""
        found = ((guest, guest.gate.last) for guest in self.all)
        return tuple(Judged(guest.gate.upstream, last) for guest, last in found if last is not None and last.open)

    async def keep_fresh(self, first: asyncio.Event) -> None:
        """Verify every guest now and at each of its intervals, until cancelled.

        ``first`` is set once a guest is accepted, or all have been judged.
        """
        waiting = set(self.all)
        loop = asyncio.get_running_loop()

        async def keep(guest: Guest) -> None:
            fresh = False  # a gate that was asked before it was given to a server need not verify twice
            while True:
                decision: Decision | None = None
                try:
                    decision = await run_sync(partial(guest.gate.decide, fresh=fresh), abandon_on_cancel=True)
                except Exception:
                    # The gate is closed now, and each request consults it again; only the timer must continue.
                    log.exception("%s: cannot be verified", guest.url)
                waiting.discard(guest)
                if not waiting or (decision is not None and decision.open):
                    first.set()
                await asyncio.sleep(guest.gate.interval)
                fresh = True

        for guest in self.all:
            guest.gate.watch(partial(_settle, loop, guest.way))
        try:
            async with asyncio.TaskGroup() as group:
                for guest in self.all:
                    group.create_task(keep(guest))
        finally:
            for guest in self.all:
                guest.way.close()

    async def admit(self) -> None:
        """Return if some guest may get a request now; `NotOpen` with the reasons if none may."""
        await self._choose(frozenset(), wait=True)

    async def send(self, asked: Asked) -> Answer:
        """Send a request to a judged guest; the caller closes the answer.

        `NotOpen` if no guest may get it, ``Refused`` if a guest has other keys than those just judged, ``HostError``
        if there is no answer.
        """
        left: set[Guest] = set()
        changed: set[Guest] = set()
        last: PrivmlError | None = None  # what is said if no other guest answers
        while (choice := await self._choose(left, wait=last is None)) is not None:
            guest, decision = choice
            try:
                answer = await self._ask(guest, decision, asked)
            except Refused as refused:
                # Another key means a new boot: the guest is verified again from scratch, once.
                if decision.keys is not None:
                    guest.gate.forget(decision.keys)
                if guest not in changed:
                    changed.add(guest)
                    continue
                last = refused
            except Unsent as error:
                guest.failed(decision)
                last = error
            except HostError:
                guest.failed(decision)
                raise
            else:
                if answer.status not in _ELSEWHERE or self._open({*left, guest}) is None:
                    return answer
                answer, unprocessed = await _refused_by_agent(answer)
                if not unprocessed:
                    return answer
                answer.close()
                last = HostError(f"the attested machine: got status {answer.status}, and no other one answers")
            left.add(guest)
        assert last is not None
        raise last

    async def ask(self, judged: Judged, asked: Asked) -> Answer:
        """Send a request to the guest that was ``judged``, and to no other; errors are those of `send`."""
        guest = next(one for one in self.all if one.gate.upstream == judged.where)
        return await self._ask(guest, judged.decision, asked)

    async def _ask(self, guest: Guest, decision: Decision, asked: Asked) -> Answer:
        guest.turn = next(self._turns)
        guest.busy += 1
        opened = True

        def close() -> None:
            nonlocal opened
            guest.busy -= opened
            opened = False

        try:
            answer = await guest.way.send(*self.present(asked, Judged(guest.gate.upstream, decision)))
        except BaseException:
            close()
            raise

        def closed() -> None:
            close()
            answer.close()

        headers = tuple((name, value) for name, value in answer.headers if not name.startswith(_OWN))
        return replace(answer, headers=headers, close=closed)

    async def _choose(self, left: Collection[Guest], *, wait: bool) -> tuple[Guest, Decision] | None:
        """The guest to ask next; with ``wait`` verify first if none is open, else None. `NotOpen` if none opens."""
        choice = self._open(left)
        if choice is not None or not wait:
            return choice
        decisions: list[tuple[Guest, Decision]] = []
        async for guest, decision in _decided([guest for guest in self.all if guest not in left]):
            if decision.open:
                return guest, decision
            decisions.append((guest, decision))
        raise NotOpen([(guest.url, decision) for guest, decision in decisions])

    def _open(self, left: Collection[Guest]) -> tuple[Guest, Decision] | None:
        """The least busy guest with an accepted judgement in force, those that are well first. Never waits."""
        found = [(guest, guest.gate.at_once()) for guest in self.all if guest not in left]
        opened = [(guest, decision) for guest, decision in found if decision is not None and decision.open]
        if not opened:
            return None
        if len(self.all) > 1:
            for guest, decision in found:
                if decision is None or not guest.well(decision):
                    guest.gate.renew()
        return min(opened, key=lambda one: (not one[0].well(one[1]), one[0].busy, one[0].turn))


def _as_it_is(asked: Asked, judged: Judged) -> tuple[Asked, Judged]:
    return asked, judged


async def _refused_by_agent(answer: Answer) -> tuple[Answer, bool]:
    """The same answer, and whether the guest's agent itself gave it, with one of its named refusals."""
    length = answer.header(b"content-length") or b""
    if not length.isdigit() or int(length) > _MAX_REFUSAL:
        return answer, False  # an agent's refusal states its length
    body = b""
    try:
        async for piece in answer.pieces:
            body += piece
            if len(body) > _MAX_REFUSAL:
                break
    except BaseException:
        answer.close()
        raise
    if len(body) > _MAX_REFUSAL:
        answer.close()
        raise HostError(f"the attested machine: a refusal is larger than {_MAX_REFUSAL} bytes")
    found: object = None
    with contextlib.suppress(EvidenceError, KeyError, TypeError):
        error = loads(body, what="refusal", limit=_MAX_REFUSAL)["error"]
        found = error["type"] == _AGENT and error["code"]
    return replace(answer, pieces=only(body)), bool(found)


async def _decided(guests: Sequence[Guest]) -> AsyncIterator[tuple[Guest, Decision]]:
    """The decisions of these guests' gates, in the order in which they are made."""
    if len(guests) == 1:
        yield guests[0], await run_sync(guests[0].gate.decide)
        return
    tasks = {asyncio.create_task(run_sync(guest.gate.decide, abandon_on_cancel=True)): guest for guest in guests}
    try:
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield tasks[task], task.result()
    finally:
        for task in tasks:
            task.cancel()


def _settle(loop: asyncio.AbstractEventLoop, way: Way, decision: Decision) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and the connections with it
        loop.call_soon_threadsafe(way.settled, decision)
