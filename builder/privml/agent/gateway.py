"""The guest's end of the sealed channel: its keys for callers, and requests that arrive sealed.

A sealed request takes its turn as an open one does, once its body was read. It is opened whole, answered as if it
had come by itself, and its answer is sealed piece by piece as it is made. Whoever terminates TLS in front of this
machine sees one path, lengths and times. Only requests that are admitted (`callers`) are remembered, so nobody else
can fill the set of those that are not answered again; other answers have no effect and may be given twice.

In the clear are 400 for a request that cannot be opened, with one body for every cause; 400 `replay`; 413, 415, 429
and 503. Every other answer is inside, and 200 outside.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from privml.agent.answers import BODILESS, READING, Answer, Asked, Denied, expect_method, json_answer
from privml.agent.channelkeys import ChannelKeys
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.strictjson import canonical
from privml.channel import bhttp, fields, keyconfig, record
from privml.channel.bhttp import Request
from privml.channel.chunks import REQUEST_LIMITS, ChunkLimits
from privml.channel.ohttp import CHUNKED, GATEWAY, KEY_PROBLEM, OpenedRequest, RequestOpener, ResponseSealer
from privml.channel.replay import Replayed, SetFull
from privml.channel.suites import TAG_SIZE, CannotOpen
from privml.channel.varint import LONGEST
from privml.channel.wrapped import WRAPPED, WrappedRequestOpener

PATHS = (record.PATH, GATEWAY)
FULL_RETRY = 60
"""Seconds after which to ask again when the replay set is full: it empties with the next key."""
INSIDE = ("/v1/", "/x/")
"""Beginnings of the paths that a sealed request may have; besides `INSIDE_PATHS`."""
INSIDE_PATHS = ("/healthz", "/readyz")
_BESIDE_CONTENT = 1024 * 1024  # head, trailers, padding, and the lengths of pieces of content
_BEFORE_CHUNKS = 32 * 1024  # encapsulated keys of 16 recipients are 19 KB
_SLICE = 64 * 1024
_STREAMED = [
    # Not stored, and neither changed nor held back by what is in between.
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"incremental", b"?1"),  # draft-ietf-httpbis-incremental
]


class Gateway:
    """Answers `PATHS`.

    ``content`` is the largest body of a request inside. ``begin`` gives a turn and the body of a request, or raises
    `Denied`; ``answer`` answers a request within a turn.
    """

    def __init__(
        self,
        keys: ChannelKeys,
        content: int,
        begin: Callable[[Asked, int], tuple[contextlib.ExitStack, bytes]],
        answer: Callable[[Asked, contextlib.ExitStack], Answer],
    ) -> None:
        self._keys = keys
        self._begin = begin
        self._answer = answer
        self._limits = ChunkLimits(REQUEST_LIMITS.chunk, REQUEST_LIMITS.chunks, content + _BESIDE_CONTENT)
        self._sealed_limit = self._limits.total + self._limits.chunks * (LONGEST + TAG_SIZE) + _BEFORE_CHUNKS

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request with one of `PATHS`; `Denied` if there is none."""
        if asked.path == GATEWAY and asked.method == "POST":
            return self._sealed(asked)
        expect_method(asked.method, (*READING, "POST") if asked.path == GATEWAY else READING, asked.path)
        asked.read(0)
        if asked.path == record.PATH:
            return json_answer(200, self._keys.record())
        offered = self._keys.offered()
        headers = [
            (b"content-type", keyconfig.MEDIA_TYPE.encode()),
            (b"content-length", str(len(offered)).encode()),
            (b"cache-control", b"no-store"),
        ]
        return Answer(200, headers, (offered,), ready=True)

    def _sealed(self, asked: Asked) -> Answer:
        given = b", ".join(value for name, value in asked.headers if name == b"content-type").decode("latin-1")
        if given not in (CHUNKED.request_type, WRAPPED.request_type):
            expected = f"{CHUNKED.request_type} or {WRAPPED.request_type}"
            raise Denied(415, "media-type", f"content-type `{given[:80]}`, expected {expected}")
        wrapped = given == WRAPPED.request_type
        turn, sealed = self._begin(asked, self._sealed_limit)
        with turn:
            try:
                opened = self._opened(sealed, wrapped=wrapped)
            except CannotOpen:
                return _unopened()
            del sealed
            try:
                return self._answered(asked, opened, "wrapped" if wrapped else "ohttp", turn)
            except Replayed as replayed:
                raise Denied(400, "replay", replayed.message) from replayed
            except SetFull as full:
                raise Denied(503, "channel-full", full.message, FULL_RETRY) from full

    def _opened(self, sealed: bytes, *, wrapped: bool) -> OpenedRequest:
        """The request in ``sealed``, whole."""
        if wrapped:
            opener: RequestOpener = WrappedRequestOpener(self._keys.alive, self._limits)
        else:
            opener = RequestOpener(self._keys.find, CHUNKED, self._limits)
        for at in range(0, len(sealed), _SLICE):
            opener.feed(sealed[at : at + _SLICE])
        return opener.end()

    def _answered(
        self,
        asked: Asked,
        opened: OpenedRequest,
        channel: Literal["ohttp", "wrapped"],
        turn: contextlib.ExitStack,
    ) -> Answer:
        """The answer to an opened request, sealed. Refusals are inside, except ``Replayed`` and ``SetFull``."""
        method = ""
        try:
            inner = self._inner(asked, opened, channel)
            method = inner.method
            answer = self._answer(inner, turn)
        except Denied as denied:
            answer = denied.answer()
        try:
            head = _head(answer, method)
        except (EvidenceError, UnicodeDecodeError):
            answer.close()
            answer = Denied(502, "unsealable", "the answer has a status or a header that cannot be sealed").answer()
            head = _head(answer, method)
        silent = method == "HEAD" or answer.status in BODILESS
        sealed = _Sealed(opened.response(), head, answer, silent=silent)
        headers = [(b"content-type", opened.form.response_type.encode()), *_STREAMED]
        return Answer(200, headers, sealed.pieces(), close=answer.close, ready=True, last=sealed.last)

    def _inner(self, asked: Asked, opened: OpenedRequest, channel: Literal["ohttp", "wrapped"]) -> Asked:
        """The request inside; `Denied` if it is malformed or asks for something else than is answered sealed."""
        try:
            request = bhttp.decode_request(opened.plain, fields.Limits(content=self._limits.total))
        except EvidenceError as error:
            raise Denied(400, "malformed", error.message) from error
        if request.line.scheme != "https":
            raise Denied(400, "scheme", "a sealed request has the scheme https")
        path = request.line.path.partition("?")[0]
        if not path.startswith(INSIDE) and path not in INSIDE_PATHS:
            raise Denied(404, "not-found", "unknown path in a sealed request")
        headers = [(name.encode(), value.encode()) for name, value in request.fields]
        digest = hashlib.sha256(opened.context.encapsulated).digest()
        return replace(
            asked, method=request.line.method, target=request.line.path, headers=headers, read=_reader(request),
            channel=channel, enc_sha256=digest, once=opened.remember,
        )  # fmt: skip


def _reader(request: Request) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        if len(request.content) > limit:
            raise Denied(413, "too-large", f"body larger than {limit} bytes")
        return request.content

    return read


def _unopened() -> Answer:
    """The answer to every request that cannot be opened: a caller fetches the keys again."""
    title = "this request cannot be opened with the keys of this machine"
    body = canonical({"type": KEY_PROBLEM, "title": title}) + b"\n"
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    return Answer(400, headers, (body,), ready=True)


def _sealable(headers: list[tuple[bytes, bytes]]) -> fields.Fields:
    return tuple((name.decode("ascii").lower(), value.decode("ascii")) for name, value in headers)


def _head(answer: Answer, method: str) -> bytes:
    """The beginning of the response inside; ``EvidenceError`` or ``UnicodeDecodeError`` if it cannot be."""
    found = _sealable(answer.headers)
    if method == "HEAD" or answer.status in BODILESS:
        # It would be the length of a content that is not there, which readers of Binary HTTP refuse.
        found = tuple((name, value) for name, value in found if name != "content-length")
    return bhttp.response_head(answer.status, found)


class _Sealed:
    """The sealed form of an answer: its head, each piece when it is made, its end. One that breaks has no end."""

    def __init__(self, response: ResponseSealer, head: bytes, answer: Answer, *, silent: bool) -> None:
        self._response = response
        self._answer = answer
        self._silent = silent
        self._begun = response.start + response.chunk(head)

    def pieces(self) -> Iterator[bytes]:
        """All but the end. The head goes with the first piece, if that is there."""
        if self._silent:
            return
        if not self._answer.ready:
            yield self._taken()
        try:
            for piece in self._answer.pieces:
                if piece:
                    yield self._taken() + self._response.chunk(bhttp.content_piece(piece))
        except PrivmlError:
            if begun := self._taken():
                yield begun  # so that the caller knows that it was answered
            raise

    def last(self) -> bytes:
        """The end."""
        return self._taken() + self._response.final(bhttp.response_end(_sealable(self._answer.trailers())))

    def _taken(self) -> bytes:
        begun, self._begun = self._begun, b""
        return begun
