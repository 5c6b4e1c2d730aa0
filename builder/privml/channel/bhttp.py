"""Binary HTTP (RFC 9292): requests and responses as bytes, of known and of indeterminate length.

One reader takes messages in any pieces; the functions for whole messages feed it once. Nothing is skipped: a message
is read to its last byte, which is padding or its end. Informational responses (1xx) are refused. Messages may leave
out empty parts at their end, as the standard says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from privml.base.errors import EvidenceError
from privml.channel.fields import (
    LIMITS,
    STREAM_LIMITS,
    Fields,
    Limits,
    RequestLine,
    check_host,
    checked_status,
    encode_fields,
    read_fields,
    stated_length,
)
from privml.channel.varint import LONGEST, Cursor, Short, encode, prefixed

KNOWN_REQUEST, KNOWN_RESPONSE, REQUEST, RESPONSE = 0, 1, 2, 3
"""Framing indicators; the last two are of indeterminate length."""
_END = b"\x00"
_Control = TypeVar("_Control")


@dataclass(frozen=True)
class Request:
    """A whole request."""

    line: RequestLine
    fields: Fields = ()
    content: bytes = b""
    trailers: Fields = ()

    def encode(self, *, pad: int = 1) -> bytes:
        """The request with known length, padded with zeros to a multiple of ``pad``."""
        data = encode(KNOWN_REQUEST) + self.line.encode() + _known(self.fields, self.content, self.trailers)
        return data + bytes(-len(data) % pad)


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int
    fields: Fields = ()
    content: bytes = b""
    trailers: Fields = ()

    def encode(self) -> bytes:
        """The response with known length."""
        head = encode(KNOWN_RESPONSE) + encode(checked_status(self.status))
        return head + _known(self.fields, self.content, self.trailers)


def _known(fields: Fields, content: bytes, trailers: Fields) -> bytes:
    return prefixed(encode_fields(fields)) + prefixed(content) + prefixed(encode_fields(trailers))


def response_head(status: int, fields: Fields) -> bytes:
    """The beginning of a response of indeterminate length."""
    return encode(RESPONSE) + encode(checked_status(status)) + encode_fields(fields) + _END


def content_piece(data: bytes) -> bytes:
    """A piece of such a response's content; nothing for no bytes, which would end it."""
    return prefixed(data) if data else b""


def response_end(trailers: Fields = ()) -> bytes:
    """The end of such a response."""
    return _END + encode_fields(trailers) + _END


class _State(Enum):
    HEAD = auto()
    CONTENT = auto()
    TRAILERS = auto()
    PADDING = auto()


class Reader(Generic[_Control]):
    """Reads one message in pieces: ``control`` and ``fields`` once they are there, content as it arrives.

    Nothing is complete before `end` returned. After an error every call fails.
    """

    def __init__(self, known: int, read: Callable[[Cursor], _Control], what: str, limits: Limits = LIMITS) -> None:
        self.control: _Control | None = None
        self.fields: Fields = ()
        self.trailers: Fields = ()
        self._framing, self._read, self._what, self._limits = known, read, what, limits
        self._state = _State.HEAD
        self._known = True
        self._buffer = bytearray()
        self._piece: int | None = None  # what is left of the content, or of its present piece
        self._size = self._pieces = self._padding = 0
        self._broken = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return the content in them."""
        return self._guarded(lambda: self._feed(data))

    def end(self) -> None:
        """The message ends here; ``EvidenceError`` if it is not complete."""
        self._guarded(self._end)
        self._broken = True

    def _guarded(self, step: Callable[[], bytes]) -> bytes:
        if self._broken:
            raise EvidenceError(f"{self._what}: ended or was refused before")
        self._broken = True
        result = step()
        self._broken = False
        return result

    def _feed(self, data: bytes) -> bytes:
        self._buffer += data
        content = bytearray()
        while self._step(content, ended=False):
            pass
        return bytes(content)

    def _end(self) -> bytes:
        content = bytearray()
        while self._state is not _State.PADDING:
            # Empty parts at the end may be left out: of the content only if none of it came.
            if not self._step(content, ended=True):
                raise EvidenceError(f"{self._what}: ends inside its {self._state.name.lower()}")
        if (stated := stated_length(self.fields)) is not None and stated != self._size:
            raise EvidenceError(f"{self._what}: content-length {stated}, expected the {self._size} bytes of content")
        return b""

    def _step(self, content: bytearray, *, ended: bool) -> bool:
        """Read one part if it is there; False if more bytes are needed."""
        match self._state:
            case _State.HEAD:
                return self._section(self._head, ended=ended)
            case _State.CONTENT:
                return self._content(content, ended=ended)
            case _State.TRAILERS:
                return self._section(self._trailers, ended=ended)
            case _State.PADDING:
                self._padding += len(self._buffer)
                if any(self._buffer) or self._padding > self._limits.padding:
                    raise EvidenceError(
                        f"{self._what}: bytes after the end, expected at most {self._limits.padding} zeros"
                    )
                self._buffer.clear()
                return False

    def _section(self, read: Callable[[Cursor, bool], None], *, ended: bool) -> bool:
        cursor = Cursor(bytes(self._buffer[: self._limits.head + 1]), self._what)
        state = self._state
        try:
            read(cursor, ended and len(self._buffer) <= self._limits.head)
        except Short:
            if len(self._buffer) > self._limits.head:
                raise EvidenceError(f"{self._what}: {state.name.lower()} above {self._limits.head} bytes") from None
            return False
        if cursor.position > self._limits.head:
            raise EvidenceError(f"{self._what}: {state.name.lower()} above {self._limits.head} bytes")
        del self._buffer[: cursor.position]
        return True

    def _head(self, cursor: Cursor, ended: bool) -> None:
        framing = cursor.varint(shortest=True)
        if framing not in (self._framing, self._framing + 2):
            raise EvidenceError(f"{self._what}: framing {framing}, expected {self._framing} or {self._framing + 2}")
        known = framing == self._framing
        control = self._read(cursor)
        fields = () if ended and not cursor.left else self._fields(cursor, "header", known=known)
        stated_length(fields)
        if isinstance(control, RequestLine):
            check_host(control, fields)
        self._known, self.control, self.fields, self._state = known, control, fields, _State.CONTENT

    def _trailers(self, cursor: Cursor, ended: bool) -> None:
        if not (ended and not cursor.left):
            self.trailers = self._fields(cursor, "trailers", known=self._known)
        if any(name in ("content-length", "host") for name, _ in self.trailers):
            raise EvidenceError(f"{self._what}: trailers with content-length or host, expected none")
        self._state = _State.PADDING

    def _fields(self, cursor: Cursor, name: str, *, known: bool) -> Fields:
        return read_fields(cursor, self._limits, known=known, what=f"{self._what} {name}")

    def _content(self, content: bytearray, *, ended: bool) -> bool:
        if self._piece is None:
            if not self._buffer:  # the usual case after a piece; `Short` costs ten times as much
                if not (ended and self._size == 0):
                    return False
                self._state = _State.TRAILERS
                return True
            cursor = Cursor(bytes(self._buffer[:LONGEST]), self._what)
            try:
                piece = cursor.varint()
            except Short:
                return False
            self._size += piece
            self._pieces += 1 if piece else 0
            if self._size > self._limits.content or self._pieces > self._limits.pieces:
                raise EvidenceError(
                    f"{self._what}: content above {self._limits.content} bytes or {self._limits.pieces} pieces"
                )
            del self._buffer[: cursor.position]
            if piece == 0 and not self._known:
                self._state = _State.TRAILERS
                return True
            self._piece = piece
        taken = self._buffer[: self._piece]
        content += taken
        del self._buffer[: len(taken)]
        self._piece -= len(taken)
        if self._piece:
            return False
        self._piece = None
        if self._known:
            self._state = _State.TRAILERS
        return True


def request_reader(limits: Limits = LIMITS) -> Reader[RequestLine]:
    """A reader of one request."""
    return Reader(KNOWN_REQUEST, RequestLine.read, "request", limits)


def response_reader(limits: Limits = STREAM_LIMITS) -> Reader[int]:
    """A reader of one response; its control data is the status."""
    return Reader(KNOWN_RESPONSE, lambda cursor: checked_status(cursor.varint(shortest=True)), "response", limits)


def decode_request(data: bytes, limits: Limits = LIMITS) -> Request:
    """Read a whole request; ``EvidenceError`` for anything but exactly one."""
    reader = request_reader(limits)
    content = reader.feed(data)
    reader.end()
    assert reader.control is not None
    return Request(reader.control, reader.fields, content, reader.trailers)


def decode_response(data: bytes, limits: Limits = LIMITS) -> Response:
    """Read a whole response; ``EvidenceError`` for anything but exactly one."""
    reader = response_reader(limits)
    content = reader.feed(data)
    reader.end()
    assert reader.control is not None
    return Response(reader.control, reader.fields, content, reader.trailers)
