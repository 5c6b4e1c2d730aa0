"""HTTP/1.1 over one TLS connection: requests in sequence, until either side closes it or breaks the protocol.

No caller can keep a connection for as long as it likes: the head of a request has a total deadline, and a body that
is sent or an answer that is read too slowly ends the connection (`pace`). One whose request holds no share can be
ended at any time (`admission`).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial

import h11

from privml.agent.admission import Slot
from privml.agent.answers import BODILESS, Answer, Asked, Denied
from privml.agent.pace import Pace
from privml.base.errors import PrivmlError

MAX_HEAD = 32 * 1024
_PIECE = 16 * 1024  # one TLS record; a request head can exceed its limit by at most one piece
IDLE_TIMEOUT = 60.0
HEAD_TIMEOUT = 10.0
"""Seconds for the whole head of a request, from its first byte."""
BODY_GRACE, BODY_RATE = 10.0, 8 * 1024
"""Seconds by which a body may fall behind its rate, in bytes a second."""
ANSWER_GRACE, ANSWER_RATE = 30.0, 1024
"""The same for reading an answer. Waiting for the engine does not count."""
MAX_PIECES = 16 * 1024
"""Pieces in which a body may arrive: each costs time, whatever its size."""
_COARSE = 0.5  # seconds by which the socket's own timeout may be longer than what is left


class Conversation:
    """One TLS connection in ``slot``, whose requests ``answer`` answers (`routes.Routes.answer`)."""

    def __init__(self, tls: ssl.SSLSocket, answer: Callable[[Asked], Answer], slot: Slot) -> None:
        self._tls = tls
        self._answer = answer
        self._slot = slot
        self._timeout = -1.0
        self._pace = Pace(ANSWER_GRACE, ANSWER_RATE)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._head_only = False

    def run(self) -> None:
        """Answer requests until the connection ends; ``OSError`` when the caller disconnects in the middle of one."""
        while True:
            self._slot.idle()
            try:
                event = self._head()
                if not isinstance(event, h11.Request):
                    return
                self._slot.asking()
                self._request(event)
            except h11.RemoteProtocolError as error:
                self._deny(Denied(error.error_status_hint, "malformed", "malformed HTTP/1.1"))
                return
            except Denied as denied:
                self._deny(denied)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    def _request(self, request: h11.Request) -> None:
        method = request.method.decode("ascii")
        self._head_only = method == "HEAD"
        sent = [(bytes(name), bytes(value)) for name, value in request.headers]
        read = partial(self._body, request)
        asked = Asked(
            method,
            request.target.decode("ascii"),
            sent,
            read,
            address=self._slot.address,
            caller=self._tls.fileno(),
            share=self._share,
        )
        self._write(self._answer(asked), trailers=self._takes_trailers(asked))

    @contextlib.contextmanager
    def _share(self) -> Iterator[None]:
        if not self._slot.busy():
            raise ConnectionAbortedError("another connection has taken the place of this one")
        try:
            yield
        finally:
            self._slot.asking()

    def _takes_trailers(self, asked: Asked) -> bool:
        """Whether the caller says that it reads trailers."""
        words = b",".join(asked.header(b"te")).lower().split(b",")
        return self._http.their_http_version != b"1.0" and b"trailers" in [word.strip() for word in words]

    def _body(self, request: h11.Request, limit: int) -> bytes:
        declared = next((value for name, value in request.headers if name == b"content-length"), b"0")
        if int(declared) > limit:
            raise Denied(413, "too-large", f"body larger than {limit} bytes")
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        pace = Pace(BODY_GRACE, BODY_RATE)
        body = bytearray()
        pieces = 0
        while isinstance(event := self._next(pace), h11.Data):
            body += event.data
            pieces += 1
            if pieces > MAX_PIECES:
                raise Denied(400, "too-many-pieces", f"body in more than {MAX_PIECES} pieces")
            if len(body) > limit:
                raise Denied(413, "too-large", f"body larger than {limit} bytes")
        return bytes(body)

    def _deny(self, denied: Denied) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = denied.answer()
        answer.headers.append((b"connection", b"close"))
        self._write(answer)
        self._slot.idle()
        self._drain()

    def _write(self, answer: Answer, *, trailers: bool = False) -> None:
        """Write an answer as it is made, with its ``trailers`` if they are wanted."""
        with contextlib.closing(answer):
            self._pace = Pace(ANSWER_GRACE, ANSWER_RATE)
            trailers = trailers and bool(answer.announced) and not self._head_only and answer.status not in BODILESS
            fields = list(answer.headers)
            if trailers:
                # A message with a length has no trailers.
                fields = [(name, value) for name, value in fields if name != b"content-length"]
                fields.append((b"trailer", b", ".join(answer.announced)))
            if self._slot.closing:
                fields.append((b"connection", b"close"))
            self._send(h11.Response(status_code=answer.status, headers=fields))
            if not self._head_only:
                self._write_pieces(answer)
            self._send(h11.EndOfMessage(headers=answer.trailers() if trailers else []))

    def _write_pieces(self, answer: Answer) -> None:
        try:
            for piece in answer.pieces:
                self._send(h11.Data(data=piece))
        except PrivmlError as error:
            # The status is already sent: a broken connection is the only sign that the answer is incomplete.
            raise ConnectionAbortedError("the answer was cut off") from error

    def _drain(self) -> None:
        """Read what is left: closing a socket with unread bytes would reset the connection and lose the response."""
        with contextlib.suppress(OSError):
            self._timeout = -1.0
            self._tls.settimeout(0)
            self._tls.unwrap()  # sends close_notify without waiting for the peer's
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)
            self._tls.settimeout(1.0)
            end = time.monotonic() + 2.0
            while time.monotonic() < end and self._tls.recv(_PIECE):
                pass

    def _send(self, event: h11.Event) -> None:
        rest = memoryview(self._http.send(event) or b"")
        while rest:
            self._wait_at_most(self._pace.left)
            self._pace.waiting()
            sent = self._tls.send(rest)
            self._pace.moved(sent)
            rest = rest[sent:]

    def _head(self) -> h11.Event | None:
        """The head of the next request; None when there will be none."""
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            self._receive(IDLE_TIMEOUT)
            return self._next(Pace(HEAD_TIMEOUT, MAX_HEAD))
        return event if isinstance(event, h11.Event) else None

    def _next(self, pace: Pace) -> h11.Event | None:
        """The next event; None when a response must be sent before the peer continues."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            left = pace.left
            pace.waiting()
            pace.moved(self._receive(left))

    def _receive(self, seconds: float) -> int:
        """Wait for the peer's next bytes; their number."""
        self._wait_at_most(seconds)
        data = self._tls.recv(_PIECE)
        self._http.receive_data(data)
        return len(data)

    def _wait_at_most(self, seconds: float) -> None:
        """Set the socket's timeout, but not for a small difference: each change costs a call."""
        if not 0 <= self._timeout - seconds <= _COARSE:
            self._tls.settimeout(seconds)
            self._timeout = seconds
