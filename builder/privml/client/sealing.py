"""Ways to guests on which every request is sealed: inside a pinned TLS connection, or through a terminator.

What carries the sealed bytes sees POST requests to one path. Answers count only from inside: what arrives outside the
channel is at most an error. A cut answer is an error, never a short answer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from privml.base.errors import EvidenceError, HostError, Refused
from privml.base.strictjson import loads
from privml.channel import record
from privml.channel.ohttp import GATEWAY, KEY_PROBLEM
from privml.client.channel import Channel, SealedAnswer, SealedRequest, sealable
from privml.client.gate import Decision
from privml.client.ways import Answer, Asked, Headers, Judged, Way

log = logging.getLogger("privml")

_MAX_PROBLEM = 16 * 1024
_NOT_SEALED = (b"te", b"host", b"content-length")
"""Headers of the connection; the sealed message has its own framing."""
_CANNOT_OPEN = "the sealed answer could not be opened: it was cut or altered, or is of another machine"


class Carrier(Protocol):
    """What carries sealed requests."""

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request; errors are those of `client.ways.Way.send`."""
        ...


class Outside(HostError):
    """An answer that is not sealed; ``answer`` is what came, and must be closed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status} outside the sealed channel, expected a sealed answer")
        self.answer = answer


class NotOpened(HostError):
    """The guest could not open the request with the keys that it has now, says somebody outside the channel."""


@dataclass(frozen=True)
class Recipient:
    """A guest that a request is sealed for: its channel, and the decision that permits the request."""

    channel: Channel
    judged: Judged


async def send_sealed(carrier: Carrier, asked: Asked, recipients: Sequence[Recipient]) -> Answer:
    """Seal ``asked`` for any of ``recipients``, and open the answer of the one that gives it.

    `NotOpened` if who got it could not open it, `Outside` for another error outside the channel, ``HostError`` for
    every other failure.
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
        if outer.status == 200 and outer.header(b"content-type") == sealed.form.response_type.encode():
            return await _opened(outer, sealed.answer(), recipients)
        if outer.status == 400:
            outer = await _refused(outer)
    except BaseException:
        outer.close()
        raise
    raise Outside(outer)


async def _refused(outer: Answer) -> Answer:
    """The same answer, read; `NotOpened` if it says that the request could not be opened."""
    body = await _whole(outer, _MAX_PROBLEM)
    problem = False
    with contextlib.suppress(EvidenceError, KeyError, TypeError):
        problem = loads(body, what="problem")["type"] == KEY_PROBLEM
    if problem:
        raise NotOpened("the attested machine could not open the request with the keys that it has now")
    return replace(outer, pieces=only(body))


async def only(body: bytes) -> AsyncIterator[bytes]:
    """The pieces of a body that is there."""
    if body:
        yield body


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
        # The connection is the guest's own, so what it says outside the channel is its word, too.
        try:
            try:
                return await send_sealed(self._carrier, asked, [Recipient(found, judged)])
            except NotOpened:
                found = self._channel = await fetched(self._carrier, judged)
                return await send_sealed(self._carrier, asked, [Recipient(found, judged)])
        except Outside as outside:
            if outside.answer.status < 400:
                outside.answer.close()
                raise
            return outside.answer

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
