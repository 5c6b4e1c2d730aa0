"""Ways to guests on which every request is sealed: inside a pinned TLS connection, or through a terminator.

What carries the sealed bytes sees POST requests to one path. Answers count only from inside: whatever arrives outside
the channel is an error, and at most its status is repeated. A cut answer is an error, never a short answer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from privml.base.errors import EvidenceError, HostError, Refused
from privml.base.strictjson import loads
from privml.channel import record
from privml.channel.ohttp import GATEWAY, KEY_PROBLEM
from privml.client import channel
from privml.client.channel import Channel, SealedAnswer, SealedRequest, sealable
from privml.client.gate import Decision
from privml.client.ways import Answer, Asked, Headers, Judged, Unsent, Way

log = logging.getLogger("privml")

_MAX_PROBLEM = 16 * 1024
_BUSY = (429, 503)
_NOT_SEALED = (b"te", b"host", b"content-length")
"""Headers of the connection; the sealed message has its own framing."""
_CANNOT_OPEN = "the sealed answer could not be opened: it was cut or altered, or is of another machine"


class Carrier(Protocol):
    """What carries sealed requests."""

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request; errors are those of `client.ways.Way.send`."""
        ...


class NotOpened(HostError):
    """The guest could not open the request with the keys that it has now, says somebody outside the channel."""


@dataclass(frozen=True)
class Recipient:
    """A guest that a request is sealed for: its channel, and the decision that permits the request."""

    channel: Channel
    judged: Judged


async def send_sealed(carrier: Carrier, asked: Asked, recipients: Sequence[Recipient]) -> Answer:
    """Seal ``asked`` for any of ``recipients``, and open the answer of the one that gives it.

    `NotOpened` if no recipient could open it, ``Unsent`` if the guest is busy, ``HostError`` for every other failure.
    """
    fields = tuple((_text(name), _text(value)) for name, value in asked.headers if name not in _NOT_SEALED)
    try:
        request = sealable(asked.method, asked.target, fields, asked.body)
        sealed = SealedRequest([one.channel for one in recipients], request)
    except EvidenceError as error:
        raise HostError(f"this request cannot be sealed: {error.message}") from error
    media = ((b"content-type", sealed.form.request_type.encode()), (b"accept", sealed.form.response_type.encode()))
    outer = await carrier.send(Asked("POST", GATEWAY, media, sealed.body), recipients[0].judged)
    try:
        await _must_be_sealed(outer, asked, sealed.form.response_type.encode())
        return await _opened(outer, sealed.answer(), recipients)
    except BaseException:
        outer.close()
        raise


async def _must_be_sealed(outer: Answer, asked: Asked, media_type: bytes) -> None:
    """Return for an answer that is sealed, as its head says; raise what its status means for any other."""
    if outer.status == 200 and outer.header(b"content-type") == media_type:
        return
    if outer.status == 400 and await _is_key_problem(outer):
        raise NotOpened("the attested machine could not open the request with the keys that it has now")
    what = f"status {outer.status} outside the sealed channel, expected a sealed answer"
    # Outside the channel nobody signs that a request was not processed.
    if outer.status in _BUSY and channel.repeatable(asked.method, asked.target):
        raise Unsent(f"{what}: the machine is busy or not ready")
    raise HostError(what)


async def _is_key_problem(outer: Answer) -> bool:
    body = await _whole(outer, _MAX_PROBLEM)
    with contextlib.suppress(EvidenceError, KeyError, TypeError):
        return bool(loads(body, what="problem")["type"] == KEY_PROBLEM)
    return False


async def _whole(outer: Answer, limit: int) -> bytes:
    body = bytearray()
    async for piece in outer.pieces:
        body += piece
        if len(body) > limit:
            raise HostError(f"an answer outside the sealed channel is larger than {limit} bytes")
    return bytes(body)


async def _opened(outer: Answer, answer: SealedAnswer, recipients: Sequence[Recipient]) -> Answer:
    """The answer inside ``outer``, once its head opened."""
    first, ended = b"", False
    try:
        while answer.status is None and not ended:
            piece = await anext(outer.pieces, None)
            ended = piece is None
            first += answer.end() if piece is None else answer.feed(piece)
    except EvidenceError as error:
        raise HostError(_CANNOT_OPEN) from error
    status, answered = answer.status, answer.channel
    if status is None or answered is None:
        raise HostError(_CANNOT_OPEN)
    by = next(one.judged for one in recipients if one.channel is answered)
    return Answer(
        by,
        status,
        tuple((name.encode(), value.encode()) for name, value in answer.fields),
        _pieces(outer, answer, first, ended=ended),
        lambda: _trailers(answer),
        outer.close,
    )


async def _pieces(outer: Answer, answer: SealedAnswer, first: bytes, *, ended: bool) -> AsyncIterator[bytes]:
    """The content, all of it that is ready at once; complete only if this ends without an error."""
    try:
        if first:
            yield first
        if ended:
            return
        async for piece in outer.pieces:
            if content := answer.feed(piece):
                yield content
        if content := answer.end():
            yield content
    except EvidenceError as error:
        outer.close()
        raise HostError(_CANNOT_OPEN) from error


def _trailers(answer: SealedAnswer) -> Headers:
    return tuple((name.encode(), value.encode()) for name, value in answer.trailers)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


class Sealed:
    """The `client.ways.Way` of a guest whose requests are sealed inside the connections of another way.

    A guest without a channel key gets its requests as they are.
    """

    def __init__(self, carrier: Way) -> None:
        self._carrier = carrier
        self._channel: Channel | None = None

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request, sealed; errors are those of `client.ways.Way.send`."""
        keys = judged.decision.keys
        if keys is None or keys.channel_key is None:
            return await self._carrier.send(asked, judged)
        found = self._channel
        if found is None or found.keys != keys:
            found = self._channel = await fetched(self._carrier, judged)
            if not found.config.kem.post_quantum:
                log.info("%s: channel not post-quantum: %s", judged.where.url, found.config.kem.name)
        try:
            return await send_sealed(self._carrier, asked, [Recipient(found, judged)])
        except NotOpened:
            # The connection is the guest's own, so this is its word, and the request was not processed.
            found = self._channel = await fetched(self._carrier, judged)
            return await send_sealed(self._carrier, asked, [Recipient(found, judged)])

    def settled(self, decision: Decision) -> None:
        """Forget the channel of other keys."""
        if self._channel is not None and decision.keys != self._channel.keys:
            self._channel = None
        self._carrier.settled(decision)

    def close(self) -> None:
        """Close what is kept."""
        self._channel = None
        self._carrier.close()


async def fetched(carrier: Carrier, judged: Judged) -> Channel:
    """The channel that the judged guest offers now; ``HostError`` or ``Refused`` if it offers none."""
    keys = judged.decision.keys
    if keys is None:
        raise Refused(judged.decision.message)
    data = await fetched_record(carrier, judged)
    try:
        return Channel.of(keys, data)
    except EvidenceError as error:
        raise HostError(error.message) from error


async def fetched_record(carrier: Carrier, judged: Judged) -> bytes:
    """A record as it is received; ``HostError`` if there is none. Nothing of it is checked."""
    answer = await carrier.send(Asked("GET", record.PATH, ((b"accept", b"application/json"),)), judged)
    try:
        data = await _whole(answer, 2 * record.MAX_RECORD)
    finally:
        answer.close()
    if answer.status != 200:
        raise HostError(f"status {answer.status} for {record.PATH}, expected the record of the channel's keys")
    return data
