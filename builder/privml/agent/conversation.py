"""HTTP/1.1 over one TLS connection: requests in sequence, until either side closes it or breaks the protocol.

No caller can keep a connection for as long as it likes: the head of a request has a total deadline, and a body that
is sent or an answer that is read too slowly ends the connection (`pace`). One whose request holds no share can be
ended at any time (`admission`).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial

import h11

from privml.agent.admission import Slot
from privml.agent.answers import BODILESS, Answer, Asked, Denied
from privml.agent.incoming import CLOSE, AnyRequest, Incoming, PlainRequest
from privml.agent.pace import Pace
from privml.base import heads
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


class Conversation:
    """One TLS connection in ``slot``, whose requests ``answer`` answers (`routes.Routes.answer`)."""

    def __init__(self, tls: ssl.SSLSocket, answer: Callable[[Asked], Answer], slot: Slot) -> None:
        self._tls = tls
        self._answer = answer
        self._slot = slot
        self._pace = Pace(ANSWER_GRACE, ANSWER_RATE)
        self._request: Incoming | None = None
        self._rest = b""  # what has arrived of the next request
        self._head_only = False
        # Waiting is done here and not by the socket: one that has a timeout waits before each write, and a change of
        # its timeout is a system call. Each lets another thread run, which then makes this one wait for its turn.
        tls.setblocking(False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(tls, select.POLLIN)
        self._writable.register(tls, select.POLLOUT)

    def run(self) -> None:
        """Answer requests until the connection ends; ``OSError`` when the caller disconnects in the middle of one."""
        while True:
            self._slot.idle()
            self._request = None
            self._head_only = False  # also for the refusal of what is no request
            try:
                request = self._head()
                if request is None:
                    return
                self._slot.asking()
                self._respond(request)
            except h11.RemoteProtocolError as error:
                self._deny(Denied(error.error_status_hint, "malformed", "malformed HTTP/1.1"))
                return
            except Denied as denied:
                self._deny(denied)  # it says that it is the connection's last
                return
            if not request.kept:
                return
            self._rest = request.rest

    def _respond(self, request: Incoming) -> None:
        self._head_only = request.method == "HEAD"
        asked = Asked(
            request.method,
            request.target,
            request.headers,
            partial(self._body, request),
            address=self._slot.address,
            caller=self._tls.fileno(),
            share=self._share,
        )
        answer = self._answer(asked)
        self._write(request, answer, trailers=request.has_trailers and _takes_trailers(asked))

    @contextlib.contextmanager
    def _share(self) -> Iterator[None]:
        if not self._slot.busy():
            raise ConnectionAbortedError("another connection has taken the place of this one")
        try:
            yield
        finally:
            self._slot.asking()

    def _body(self, request: Incoming, limit: int) -> bytes:
        if request.length > limit:
            raise Denied(413, "too-large", f"body larger than {limit} bytes")
        if awaited := request.awaited():
            self._send(awaited)
        pace = Pace(BODY_GRACE, BODY_RATE)
        body = bytearray()
        pieces = 0
        while piece := self._piece(request, pace):
            body += piece
            pieces += 1
            if pieces > MAX_PIECES:
                raise Denied(400, "too-many-pieces", f"body in more than {MAX_PIECES} pieces")
            if len(body) > limit:
                raise Denied(413, "too-large", f"body larger than {limit} bytes")
        return bytes(body)

    def _piece(self, request: Incoming, pace: Pace) -> bytes:
        """The next bytes of a body, none after its end."""
        while (piece := request.piece()) is None:
            request.receive(self._paced(pace))
        return piece

    def _deny(self, denied: Denied) -> None:
        if self._request is None or not self._request.unanswered:
            return
        answer = denied.answer()
        answer.headers.append(CLOSE)
        self._write(self._request, answer)
        self._slot.idle()
        self._drain()

    def _write(self, request: Incoming, answer: Answer, *, trailers: bool = False) -> None:
        """Write an answer as it is made, with its ``trailers`` if they are wanted."""
        with contextlib.closing(answer):
            self._pace = Pace(ANSWER_GRACE, ANSWER_RATE)
            trailers = trailers and bool(answer.announced) and not self._head_only and answer.status not in BODILESS
            fields = list(answer.headers)
            if trailers:
                # A message with a length has no trailers.
                fields = [(name, value) for name, value in fields if name != b"content-length"]
                fields.append((b"trailer", b", ".join(answer.announced)))
            if self._slot.closing and CLOSE not in fields:
                fields.append(CLOSE)
            left = request.head(answer.status, fields)
            if not self._head_only:
                left = self._write_pieces(request, answer, left)
            self._send(left + request.end(answer.trailers() if trailers else []))

    def _write_pieces(self, request: Incoming, answer: Answer, head: bytes) -> bytes:
        """Write the body; what is left for the end. The head goes before the first piece unless that is ``ready``."""
        if not answer.ready:
            self._send(head)
            head = b""
        try:
            for piece in answer.pieces:
                self._send(head + request.data(piece))
                head = b""
            return head + request.data(answer.last())
        except PrivmlError as error:
            # A head and then a broken connection say that there was an answer, and that it is incomplete. Without a
            # head, a caller would think that nothing answers here.
            self._send(head)
            raise ConnectionAbortedError("the answer was cut off") from error

    def _drain(self) -> None:
        """Read what is left: closing a socket with unread bytes would reset the connection and lose the response."""
        with contextlib.suppress(OSError):
            self._tls.unwrap()  # sends close_notify without waiting for the peer's
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)
            self._tls.settimeout(1.0)
            end = time.monotonic() + 2.0
            while time.monotonic() < end and self._tls.recv(_PIECE):
                pass

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            left = self._pace.left
            self._pace.waiting()
            try:
                sent = self._tls.send(rest)
            except ssl.SSLWantWriteError:
                self._writable.poll(_milliseconds(left))
                sent = 0
            self._pace.moved(sent)
            rest = rest[sent:]

    def _head(self) -> Incoming | None:
        """The head of the next request; None when there will be none."""
        data, self._rest = self._rest or self._receive(IDLE_TIMEOUT), b""
        found = heads.request(data, MAX_HEAD)
        if found is not None:
            self._request = PlainRequest(found, data[found.size :])
            return self._request
        self._request = request = AnyRequest(data, MAX_HEAD)
        pace = Pace(HEAD_TIMEOUT, MAX_HEAD)
        while (there := request.read_head()) is None:
            request.receive(self._paced(pace))
        return request if there else None

    def _paced(self, pace: Pace) -> bytes:
        left = pace.left
        pace.waiting()
        data = self._receive(left)
        pace.moved(len(data))
        return data

    def _receive(self, seconds: float) -> bytes:
        """Wait for the peer's next bytes, none at its end; ``TimeoutError`` after ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            if not self._tls.pending() and not self._readable.poll(_milliseconds(end - time.monotonic())):
                raise TimeoutError("the caller sends nothing")
            with contextlib.suppress(ssl.SSLWantReadError):  # part of a record, or one without data
                return self._tls.recv(_PIECE)
            if time.monotonic() >= end:
                raise TimeoutError("the caller sends no whole record")


def _milliseconds(seconds: float) -> int:
    return max(math.ceil(1000 * seconds), 0)


def _takes_trailers(asked: Asked) -> bool:
    """Whether the caller says that it reads trailers."""
    words = b",".join(asked.header(b"te")).lower().split(b",")
    return b"trailers" in [word.strip() for word in words]
