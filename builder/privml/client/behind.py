"""The guests behind somebody else's TLS terminator: judged on their channel keys, reached by sealed requests only.

One gate judges all of them, because one address stands for all. A request is sealed for every accepted guest, so
whichever the load balancer chooses can answer it; a guest that was not judged cannot open it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from anyio.to_thread import run_sync

from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused
from privml.base.strictjson import canonical
from privml.client.channel import MAX_GUESTS, Channel, repeatable
from privml.client.gate import INTERVAL, MAX_AGE, Check, Decision, Gate
from privml.client.guests import Guest, Guests
from privml.client.kept import Connections
from privml.client.sealing import NotOpened, Outside, Recipient, fetched_record, only, send_sealed
from privml.client.terminator import Offered, Terminator
from privml.client.ways import Answer, Asked, Judged

log = logging.getLogger("privml")

_BUSY = (429, 503)
_SECONDS = re.compile(rb"\A[0-9]{1,4}\Z")
_BETWEEN = 5.0
"""Seconds between two judgements that requests cause."""


@dataclass(frozen=True)
class Behind(Decision):
    """An open decision about several guests; ``judgement`` is that of the first."""

    recipients: tuple[Recipient, ...] = ()

    @property
    def each(self) -> tuple[Decision, ...]:
        """The decision about each guest."""
        return tuple(one.judged.decision for one in self.recipients)

    @property
    def message(self) -> str:
        """One sentence for the log and for the client."""
        count = len(self.recipients)
        return f"{super().message} ({count} guest{'' if count == 1 else 's'})"


class ChannelGate(Gate):
    """The gate of all guests behind a terminator. ``check`` gets the record instead of the connection's key."""

    def __init__(
        self,
        terminator: Terminator,
        check: Check,
        *,
        interval: float = INTERVAL,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(terminator.where.url, check, interval=interval, max_age=max_age, clock=clock)
        self.terminator = terminator
        self._known: dict[bytes, Recipient] = {}  # by keys section; only the verifying thread uses it

    def recipients(self, decision: Decision) -> tuple[Recipient, ...]:
        """The guests of a decision whose own judgement is not too old; of a single guest's, that one as of now."""
        behind = decision if isinstance(decision, Behind) else self.last
        if not isinstance(behind, Behind):
            return ()
        wanted = None if behind is decision else decision.keys
        found = (one for one in behind.recipients if self._young(one))
        return tuple(one for one in found if behind is decision or one.channel.keys == wanted)

    @property
    def count(self) -> int:
        """How many guests are accepted now."""
        last = self.last
        return 0 if last is None else len(self.recipients(last))

    def _young(self, one: Recipient) -> bool:
        return self._clock() - one.judged.decision.made < self._max_age

    def _judge(self) -> Decision:
        """Judge every guest that the terminator shows. One that was not seen this time stays until it is too old."""
        began = self._clock()
        failed: Decision | None = None
        accepted: dict[bytes, Recipient] = {}
        try:
            for one in self.terminator.offered(self._timeout):
                decision = self._decision(began, one)
                if isinstance(decision, Recipient):
                    accepted[decision.channel.keys.section_sha256] = decision
                else:
                    failed = failed or decision
                    log.warning("%s: a guest behind it is not used: %s", self.upstream.url, decision.message)
        except PrivmlError as error:
            return Decision(began, error=error)
        others = {name: one for name, one in self._known.items() if self._young(one) and name not in accepted}
        known = list({**accepted, **others}.items())[:MAX_GUESTS]
        self._known = dict(known)
        if not known:
            return failed or Decision(began, error=HostError(f"{self.upstream.url}: no guest gave a document"))
        recipients = tuple(one for _, one in known)
        first = recipients[0].judged.decision
        return Behind(first.made, first.judgement, None, recipients)

    def _decision(self, began: float, one: Offered) -> Recipient | Decision:
        try:
            judgement = self._check(one.document, one.nonce, one.record)
            decision = Decision(began, judgement)
            if decision.keys is None:
                return decision
            return Recipient(Channel.of(decision.keys, one.record), Judged(self.upstream, decision))
        except PrivmlError as error:
            return Decision(began, error=error)


class Front:
    """The `client.ways.Way` to the guests behind a terminator. Used on one event loop."""

    def __init__(self, gate: ChannelGate) -> None:
        self._gate = gate
        self._carrier = Connections(gate.upstream, gate.terminator.tls, _anybody)
        # By keys section: the record of the judgement, and the newer one that was fetched after it.
        self._newer: dict[bytes, tuple[Channel, Channel]] = {}
        self._judged_again = float("-inf")

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request, sealed for every guest of the decision; errors are those of `client.ways.Way.send`.

        When the guest that got it could not open it, the records are fetched again, then the guests are judged again,
        and the request is sealed again each time. Nobody signs that it was not opened, so a request that may have
        effects is not sent twice.
        """
        recipients, every = self._recipients(judged.decision), isinstance(judged.decision, Behind)
        try:
            return await self._sent(asked, recipients)
        except NotOpened:
            changed = await self._renewed(recipients)
            if not repeatable(asked.method, asked.target):
                if not changed:
                    self._gate.renew()
                raise
        # Also without newer keys: the load balancer may choose another guest now.
        for _ in range(1 if every else self._gate.count):
            with contextlib.suppress(NotOpened):
                return await self._sent(asked, self._recipients(judged.decision))
        # Whoever ends TLS can say at each request that it was not opened; the guests do not pay for that.
        now = time.monotonic()
        fresh, self._judged_again = now - self._judged_again >= _BETWEEN, now
        decision = await run_sync(partial(self._gate.decide, fresh=fresh))
        return await self._sent(asked, self._recipients(decision if every else judged.decision))

    def settled(self, decision: Decision) -> None:
        """Forget the records of guests that the decision does not accept."""
        accepted = {one.channel.keys.section_sha256 for one in self._gate.recipients(decision)}
        self._newer = {name: found for name, found in self._newer.items() if name in accepted}

    def close(self) -> None:
        """Close what is kept."""
        self._newer = {}
        self._carrier.close()

    async def _sent(self, asked: Asked, recipients: tuple[Recipient, ...]) -> Answer:
        try:
            return await send_sealed(self._carrier, asked, recipients)
        except Outside as outside:
            outside.answer.close()
            if outside.answer.status not in _BUSY:
                raise
            return _busy(outside.answer)

    def _recipients(self, decision: Decision) -> tuple[Recipient, ...]:
        """The guests of a decision, each with its newest record; ``Refused`` without any."""
        found = self._gate.recipients(decision)
        if not found:
            raise Refused(decision.message)
        return tuple(replace(one, channel=self._newest(one.channel)) for one in found)

    def _newest(self, known: Channel) -> Channel:
        # A later judgement's record is the newer one, whatever its number.
        base, newer = self._newer.get(known.keys.section_sha256, (known, known))
        return newer if base == known else known

    async def _renewed(self, recipients: tuple[Recipient, ...]) -> bool:
        """Fetch records a few times; True if a guest of ``recipients`` has a newer generation of keys."""
        changed = False
        for _ in range(2 * len(recipients)):
            try:
                data = await fetched_record(self._carrier, recipients[0].judged)
            except HostError:
                continue
            changed |= any(self._take(one.channel, data) for one in recipients)
        return changed

    def _take(self, known: Channel, data: bytes) -> bool:
        """Keep the record if the same attested key signed it and it is newer than what is known; True then."""
        try:
            found = Channel.of(known.keys, data)
        except (Refused, EvidenceError):
            return False
        name = known.keys.section_sha256
        base, newest = self._newer.get(name, (known, known))
        if known not in (base, newest):  # a later judgement's
            base = newest = known
        if found.record.seq <= newest.record.seq:
            return False
        self._newer[name] = base, found
        return True


def _busy(outside: Answer) -> Answer:
    """The answer for a client when somebody says outside the channel that the guests are busy: only numbers pass."""
    error = {"error": {"code": "busy", "message": f"the machine is busy: status {outside.status}", "type": "privml"}}
    after = outside.header(b"retry-after") or b""
    headers = ((b"content-type", b"application/json"), (b"retry-after", after if _SECONDS.match(after) else b"1"))
    return Answer(outside.judged, outside.status, headers, only(canonical(error)))


def guests_behind(
    terminator: Terminator, check: Check, *, interval: float = INTERVAL, max_age: float = MAX_AGE
) -> Guests:
    """All guests behind ``terminator`` as one: under one gate, and with one way that seals for each of them."""
    gate = ChannelGate(terminator, check, interval=interval, max_age=max_age)
    return Guests([Guest(gate, Front(gate))])


def _anybody(_: ssl.SSLObject) -> None:
    """Nothing is asked of whoever ends TLS, but the certificate that the TLS context checks."""
