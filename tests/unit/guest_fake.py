"""A guest on this machine: real TLS, real (simulated) documents, and a record of every request that reached it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attestation_samples as samples
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.server_thread import in_thread

STAGES = {
    "format": "privml-stages/v1",
    "ready": False,
    "stages": [
        {"name": "config", "status": "ok", "detail": "", "started_ms": 1, "ended_ms": 2},
        {"name": "model", "status": "failed", "detail": "bad\x1b[31m hash", "started_ms": 2, "ended_ms": 3},
    ],
}


def identity() -> tuple[bytes, bytes]:
    """(PEM of key and certificate, SHA-256 of the public key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "privml guest")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9999))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem + certificate.public_bytes(serialization.Encoding.PEM), hashlib.sha256(spki).digest()


class Guest:
    """The answers of the handler below; tests change them while it runs."""

    def __init__(self) -> None:
        self.pem, self.spki = identity()
        self.ready = True
        self.items = samples.extends(4 << 30)
        self.claimed_spki: bytes | None = None
        self.document: Callable[[bytes], bytes] = self._document
        self.attestations = 0
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: object = None
        self.stages: Any = STAGES
        self.cut = False
        self.lengthless = False
        self.endless = False
        self.pause = 0.02
        self.wake = threading.Event()
        self.broken = threading.Event()
        self.port = 0
        self.dead = False
        self.connections: set[socket.socket] = set()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.use(self.pem)

    def use(self, pem: bytes) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "identity.pem"
            path.write_bytes(pem)
            self.context.load_cert_chain(path)

    def reboot(self) -> None:
        """A new key, as a new boot has, and none of the connections."""
        self.pem, self.spki = identity()
        self.use(self.pem)
        self.hang_up()

    def die(self) -> None:
        """Every connection ends, and so does each new one."""
        self.dead = True
        self.hang_up()

    def hang_up(self) -> None:
        """Every connection ends."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _document(self, nonce: bytes) -> bytes:
        return samples.document(self.items, nonce=nonce, spki=self.claimed_spki or self.spki).encode()


def _handler(guest: Guest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/.well-known/privml-attestation":
                guest.attestations += 1
                if not guest.ready:
                    self._json(503, {"error": {"code": "not-ready", "message": "not\x07 yet", "type": "privml"}})
                    return
                nonce = bytes.fromhex(parse_qs(parts.query)["nonce"][0])
                self._send(200, guest.document(nonce))
            elif parts.path == "/boot-stages":
                self._json(200, guest.stages)
            else:
                self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            guest.requests.append((self.command, self.path, dict(self.headers), body))
            if self.path.endswith("/stream"):
                self._stream()
            elif guest.lengthless:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")
                self.close_connection = True
            else:
                self._json(200, guest.answer or {"echo": body.decode()})

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                self._tokens()
            except OSError:
                guest.broken.set()
                raise
            if not guest.cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = self.close_connection or guest.cut

        def _tokens(self) -> None:
            for index in range(3):
                self.wfile.write(b"f\r\ndata: token %d\n\n\r\n" % index)
                self.wfile.flush()
                time.sleep(0.05)
            while guest.endless:
                self.wfile.write(b"4\r\nmore\r\n")
                guest.wake.wait(guest.pause)

        def _json(self, status: int, value: object) -> None:
            self._send(status, json.dumps(value).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) + (10 if guest.cut else 0)))
            self.send_header("Set-Cookie", "a=b")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = self.close_connection or guest.cut

    return Handler


class _Server(ThreadingHTTPServer):
    guest: Guest

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.guest.dead:
            return
        # The handshake runs here, in the connection's thread, so that a client that hangs up disturbs nobody.
        connection = request.dup()
        self.guest.connections.add(connection)
        try:
            with self.guest.context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)
        except OSError:
            return
        finally:
            self.guest.connections.discard(connection)
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def running(guest: Guest) -> Iterator[Guest]:
    server = _Server(("127.0.0.1", 0), _handler(guest))
    server.guest = guest
    guest.port = server.server_address[1]
    with in_thread(server):
        yield guest


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
