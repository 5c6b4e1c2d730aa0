"""HTTP/1.1 over one TLS connection: requests in sequence, until either side closes it or breaks the protocol."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial

import h11

from privml.agent.answers import Answer, Asked, Denied
from privml.base.errors import PrivmlError

MAX_HEAD = 32 * 1024
_PIECE = 16 * 1024  # one TLS record; a request head can exceed its limit by at most one piece
IDLE_TIMEOUT = 60.0
BODY_TIMEOUT = 120.0
WRITE_TIMEOUT = 120.0


class Conversation:
    """One TLS connection, whose requests ``answer`` answers (`routes.Routes.answer`)."""

    def __init__(self, tls: ssl.SSLSocket, answer: Callable[[Asked], Answer]) -> None:
        self._tls = tls
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._head_only = False

    def run(self) -> None:
        """Answer requests until the connection ends; ``OSError`` when the caller disconnects in the middle of one."""
        while True:
            try:
                event = self._next(time.monotonic() + IDLE_TIMEOUT)
                if not isinstance(event, h11.Request):
                    return
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
        asked = Asked(method, request.target.decode("ascii"), sent, partial(self._body, request))
        self._write(self._answer(asked), trailers=self._takes_trailers(asked))

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
        end = time.monotonic() + BODY_TIMEOUT
        body = bytearray()
        while isinstance(event := self._next(end), h11.Data):
            body += event.data
            if len(body) > limit:
                raise Denied(413, "too-large", f"body larger than {limit} bytes")
        return bytes(body)

    def _deny(self, denied: Denied) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = denied.answer()
        answer.headers.append((b"connection", b"close"))
        self._write(answer)
        self._drain()

    def _write(self, answer: Answer, *, trailers: bool = False) -> None:
        """Write an answer as it is made, with its ``trailers`` if they are wanted."""
        with contextlib.closing(answer):
            trailers = trailers and bool(answer.announced) and not self._head_only
            fields = list(answer.headers)
            if trailers:
                # A message with a length has no trailers.
                fields = [(name, value) for name, value in fields if name != b"content-length"]
                fields.append((b"trailer", b", ".join(answer.announced)))
            self._tls.settimeout(WRITE_TIMEOUT)
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
            self._tls.settimeout(0)
            self._tls.unwrap()  # sends close_notify without waiting for the peer's
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)
            self._tls.settimeout(1.0)
            end = time.monotonic() + 2.0
            while time.monotonic() < end and self._tls.recv(_PIECE):
                pass

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._tls.sendall(data)

    def _next(self, end: float) -> h11.Event | None:
        """The next event; None when a response must be sent before the peer continues."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._tls.settimeout(left)
            self._http.receive_data(self._tls.recv(_PIECE))
