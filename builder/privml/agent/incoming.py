"""One request of a connection as it arrives, and the bytes of its answer.

A request whose head is of the usual form and arrives in one piece is read here (`base.heads`); every other one, and
every one that is malformed, is h11's. Both kinds have the same methods, and end in the same errors: those of h11.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import h11

from privml.agent.answers import BODILESS
from privml.agent.headers import Headers
from privml.base.heads import RequestHead, written_fields, written_response

CLOSE = (b"connection", b"close")
"""The field of a connection's last answer."""


class Incoming(Protocol):
    """One request. `receive` is called when `piece` gives None, with b"" at the end of the connection."""

    method: str
    target: str
    headers: Headers
    length: int
    """Bytes of the body as stated, 0 if nothing is stated."""

    @property
    def has_trailers(self) -> bool:
        """Whether its answer can have trailers: it is not of HTTP/1.0."""
        ...

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        ...

    def piece(self) -> bytes | None:
        """The next bytes of the body, b"" after its end, None if more must be received."""
        ...

    def awaited(self) -> bytes:
        """What must be sent before the caller sends its body; nothing for most."""
        ...

    @property
    def unanswered(self) -> bool:
        """Whether an answer can still begin."""
        ...

    def head(self, status: int, fields: Headers) -> bytes:
        """The head of its answer. One with ``Connection: close`` is the connection's last."""
        ...

    def data(self, piece: bytes) -> bytes:
        """A piece of the answer's body, framed."""
        ...

    def end(self, trailers: Headers) -> bytes:
        """The end of the answer."""
        ...

    @property
    def kept(self) -> bool:
        """After the answer: whether another request may follow."""
        ...

    @property
    def rest(self) -> bytes:
        """What was received of the next request."""
        ...


class PlainRequest:
    """A request of the usual form, of which ``rest`` has arrived after its head."""

    has_trailers = True

    def __init__(self, head: RequestHead, rest: bytes) -> None:
        self.method = head.method
        self.target = head.target
        self.headers = head.fields
        self.length = head.length
        self.rest = rest
        self._unread = head.length
        self._answering = self._ended = self._last = self._chunked = False
        self._unsent = 0

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""
        if not data:
            raise h11.RemoteProtocolError("the connection ended in the middle of a body")
        self.rest += data

    def piece(self) -> bytes | None:
        """The next bytes of the body."""
        if not self._unread:
            return b""
        piece, self.rest = self.rest[: self._unread], self.rest[self._unread :]
        self._unread -= len(piece)
        return piece or None

    def awaited(self) -> bytes:
        """Nothing: one that waits for 100 Continue is not of the usual form."""
        return b""

    @property
    def unanswered(self) -> bool:
        """Whether no answer was begun."""
        return not self._answering

    def head(self, status: int, fields: Headers) -> bytes:
        """The head of the answer; a body whose length is not stated is sent in chunks."""
        stated = [value for name, value in fields if name == b"content-length"]
        if status in BODILESS:
            self._unsent = 0
        elif stated:
            if len(stated) > 1 or not stated[0].isdigit():
                raise h11.LocalProtocolError("an answer without one length")
            self._unsent = int(stated[0])
        else:
            self._chunked = True
            fields = [*fields, (b"Transfer-Encoding", b"chunked")]
        written = _written(partial(written_response, status), fields)
        self._answering = True
        self._last = CLOSE in fields
        return written

    def data(self, piece: bytes) -> bytes:
        """A chunk, or the piece itself."""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        self._unsent -= len(piece)
        if self._unsent < 0:
            raise h11.LocalProtocolError("more than the stated length")
        return piece

    def end(self, trailers: Headers) -> bytes:
        """The last chunk and the trailers; nothing after a body of a stated length."""
        if self._unsent:
            raise h11.LocalProtocolError("less than the stated length")
        self._ended = True
        return b"0\r\n%b\r\n" % _written(written_fields, trailers) if self._chunked else b""

    @property
    def kept(self) -> bool:
        """Whether request and answer are complete, and the answer was not the last."""
        return self._ended and not self._unread and not self._last


def _written(write: Callable[[Headers], bytes], fields: Headers) -> bytes:
    try:
        return write(fields)
    except ValueError as error:
        raise h11.LocalProtocolError(str(error)) from error


class AnyRequest:
    """A request in whatever form, read and answered by h11. ``data`` is what has arrived of it."""

    def __init__(self, data: bytes, limit: int) -> None:
        self.method = self.target = ""
        self.headers: Headers = []
        self.length = 0
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
        self._http.receive_data(data)

    def read_head(self) -> bool | None:
        """True once the head is there, None if more must be received, False if there will be no request.

        ``h11.RemoteProtocolError`` for a malformed one, and for one that says twice where its body ends.
        """
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Request):
            return False
        self.method, self.target = event.method.decode("ascii"), event.target.decode("ascii")
        self.headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in self.headers}:
            # h11 would take the chunks and keep the connection. Whoever is in between may have taken the length, and
            # RFC 9112, 6.1 allows to refuse it.
            raise h11.RemoteProtocolError("a body with a stated length and a transfer coding")
        self.length = int(next((value for name, value in self.headers if name == b"content-length"), b"0"))
        return True

    @property
    def has_trailers(self) -> bool:
        """Whether the request is not of HTTP/1.0."""
        return self._http.their_http_version != b"1.0"

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""
        self._http.receive_data(data)

    def piece(self) -> bytes | None:
        """The next bytes of the body."""
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            return None
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def awaited(self) -> bytes:
        """100 Continue, if the caller waits for that."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    @property
    def unanswered(self) -> bool:
        """Whether no answer was begun."""
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def head(self, status: int, fields: Headers) -> bytes:
        """The head of the answer."""
        return self._http.send(h11.Response(status_code=status, headers=fields)) or b""

    def data(self, piece: bytes) -> bytes:
        """A piece of the body."""
        return self._http.send(h11.Data(data=piece)) or b""

    def end(self, trailers: Headers) -> bytes:
        """The end of the answer."""
        return self._http.send(h11.EndOfMessage(headers=trailers)) or b""

    @property
    def kept(self) -> bool:
        """Whether request and answer are complete, and none of them was the last."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    @property
    def rest(self) -> bytes:
        """What follows the request."""
        return self._http.trailing_data[0]
