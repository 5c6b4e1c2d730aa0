"""A TLS terminator in front of a guest that alters what the guest answers, as its operator could."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.unit.server_thread import in_thread
from tests.unit.terminator_certificate import certificate

from privml.channel.ohttp import GATEWAY
from privml.channel.record import PATH

Change = Callable[[bytes], bytes]
DOCUMENT = "/.well-known/privml-attestation?nonce="
_PASSED = ("content-type", "accept")


class Meddler:
    """Passes everything on. ``record`` alters the record of the channel's keys, ``document`` each attestation
    document, ``answer`` each sealed answer.
    """

    def __init__(self, guest: int, place: Path) -> None:
        self.guest = guest
        self.authority = certificate(place)
        self.record: Change = lambda body: body
        self.document: Change = lambda body: body
        self.answer: Change = lambda body: body
        self.sealed = self.posts = 0
        self.port = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(place / "cert.pem", place / "key.pem")

    @property
    def url(self) -> str:
        """Its address, as if it were a guest's."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def way(self) -> list[str]:
        """The options that lead a caller through it."""
        return ["--via", self.url, "--via-ca", str(self.authority)]

    def passed(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Status, type and body of the guest's answer, altered."""
        self.posts += method == "POST"
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.guest, timeout=60, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers)
            found = connection.getresponse()
            data = found.read()
        if path == PATH:
            data = self.record(data)
        if path.startswith(DOCUMENT):
            data = self.document(data)
        if path == GATEWAY:
            self.sealed += 1
            data = self.answer(data)
        return found.status, found.headers["content-type"], data


def _handler(meddler: Meddler) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._pass(b"")

        def do_POST(self) -> None:
            self._pass(self.rfile.read(int(self.headers["content-length"])))

        def _pass(self, body: bytes) -> None:
            headers = {name: self.headers[name] for name in _PASSED if name in self.headers}
            status, kind, data = meddler.passed(self.command, self.path, headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


class _Server(ThreadingHTTPServer):
    meddler: Meddler

    def finish_request(self, request: Any, client_address: Any) -> None:
        with (
            contextlib.suppress(OSError),
            self.meddler.context.wrap_socket(request, server_side=True) as tls,
        ):
            super().finish_request(tls, client_address)


@contextlib.contextmanager
def running(guest: int, place: Path) -> Iterator[Meddler]:
    """Run one in front of the guest at this port of 127.0.0.1, with its certificate in ``place``."""
    meddler = Meddler(guest, place)
    server = _Server(("127.0.0.1", 0), _handler(meddler))
    server.meddler = meddler
    meddler.port = server.server_address[1]
    with in_thread(server):
        yield meddler
