"""Somebody else's TLS terminator with its own certificate, and sealed guests behind it that answer in turn."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sealed_guest import SealedGuest, answered
from tests.unit.server_thread import in_thread
from tests.unit.terminator_certificate import certificate

from privml.base.errors import Refused
from privml.channel.bhttp import Request
from privml.channel.fields import Fields
from privml.channel.ohttp import GATEWAY, KEY_PROBLEM
from privml.channel.record import PATH
from privml.channel.suites import CannotOpen

PROBLEM = json.dumps({"type": KEY_PROBLEM, "title": "no"}).encode()


class Front:
    """What the terminator does and saw; tests change it while it runs."""

    def __init__(self, place: Path, *guests: SealedGuest) -> None:
        self.authority = certificate(place)
        self.guests = list(guests)
        self.turn = 0
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, bytes]] = []
        self.opened: list[tuple[SealedGuest, Request]] = []
        self.pieces: Callable[[Request], list[bytes]] = lambda _: [b"one", b"two"]
        self.fields: Callable[[Request], Fields] = lambda _: ()
        self.cut = False
        self.outside: tuple[int, str, bytes] | None = None
        self.altered: Callable[[bytes], bytes] = lambda data: data
        self.port = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(place / "cert.pem", place / "key.pem")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def next(self) -> SealedGuest:
        with self.lock:
            self.turn += 1
            return self.guests[self.turn % len(self.guests)]

    def prompts(self) -> list[bytes]:
        return [request.content for _, request in self.opened]


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            guest, parts = front.next(), urlsplit(self.path)
            front.seen.append(("GET", self.path, b""))
            if parts.path == PATH:
                self._send(200, "application/json", front.altered(guest.record))
            elif parts.path == "/.well-known/privml-attestation":
                nonce = bytes.fromhex(parse_qs(parts.query)["nonce"][0])
                self._send(200, "application/json", guest.document(nonce).encode())
            else:
                self._send(404, "text/html", b"<html>nothing here</html>")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            front.seen.append(("POST", self.path, body))
            if front.outside is not None:
                self._send(*front.outside)
                return
            guest = front.next()
            try:
                request, opened = guest.open(self.headers["content-type"], body)
            except (CannotOpen, Refused):
                self._send(400, "application/problem+json", PROBLEM)
                return
            assert self.path == GATEWAY
            front.opened.append((guest, request))
            pieces, fields = front.pieces(request), (("content-type", "text/event-stream"), *front.fields(request))
            cut = front.cut and request.line.method == "POST"
            sealed = answered(opened, pieces, fields=fields, trailers=(("x-end", "1"),), cut=cut)
            self.send_response(200)
            self.send_header("Content-Type", opened.form.response_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in sealed:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


class _Server(ThreadingHTTPServer):
    front: Front

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.front.context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)
        except OSError:
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def running(front: Front) -> Iterator[Front]:
    server = _Server(("127.0.0.1", 0), _handler(front))
    server.front = front
    front.port = server.server_address[1]
    with in_thread(server):
        yield front
