"""Stand-ins for Intel's PCS and a PCCS: collateral of the vectors or of the simulation, and every way to break it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

import attestation_samples as samples
from tests.unit.server_thread import in_thread

from privml.evidence.tdx.platform import Platform

PCS = samples.VECTORS / "intel_pcs"
INTEL = Platform("90c06f000000", "platform")
FEBRUARY_2026 = 1_770_000_000
Sent = tuple[int, dict[str, str], bytes]

PCK_CRL = "/sgx/certification/v4/pckcrl"
ROOT_CRL = "/sgx/certification/v4/rootcacrl"
TCB = "/tdx/certification/v4/tcb"
QE = "/tdx/certification/v4/qe/identity"


@cache
def intel_answers() -> Mapping[str, Sent]:
    """What Intel's service sent on a day in January 2026, by path."""

    def chain(name: str) -> str:
        return (PCS / f"{name}_chain.txt").read_text().strip()

    def body(name: str) -> bytes:
        return (PCS / name).read_bytes()

    return {
        PCK_CRL: (200, {"SGX-PCK-CRL-Issuer-Chain": chain("pck_crl_platform")}, body("pck_crl_platform.crl")),
        ROOT_CRL: (200, {}, body("root_ca.crl").hex().encode()),
        TCB: (200, {"TCB-Info-Issuer-Chain": chain("qe_identity")}, body("tcb_info_90c06f000000.json")),
        QE: (200, {"SGX-Enclave-Identity-Issuer-Chain": chain("qe_identity")}, body("qe_identity.json")),
        "/IntelSGXRootCA.der": (200, {}, body("root_ca.crl")),
    }


def answers_of(fields: Mapping[str, str]) -> dict[str, Sent]:
    """The answers that hold these nine fields, as an older PCCS spells them."""

    def envelope(member: str, field: str) -> bytes:
        return f'{{"{member}": {fields[field]}, "signature": "{fields[f"{field}_signature"].upper()}"}}\n'.encode()

    def chain(field: str) -> str:
        return quote(fields[field])

    return {
        PCK_CRL: (
            200,
            {"sgx-pck-crl-issuer-chain": chain("pck_crl_issuer_chain")},
            fields["pck_crl"].upper().encode(),
        ),
        ROOT_CRL: (200, {}, fields["root_ca_crl"].encode() + b"\n"),
        TCB: (200, {"SGX-TCB-Info-Issuer-Chain": chain("tcb_info_issuer_chain")}, envelope("tcbInfo", "tcb_info")),
        QE: (
            200,
            {"SGX-Enclave-Identity-Issuer-Chain": chain("qe_identity_issuer_chain")},
            envelope("enclaveIdentity", "qe_identity"),
        ),
    }


class Service:
    """A stand-in: ``answers`` by path; ``asked`` records path and query of each request."""

    def __init__(self, answers: Mapping[str, Sent] | None = None) -> None:
        self.answers: dict[str, Sent] = dict(intel_answers() if answers is None else answers)
        self.asked: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def change(self, path: str, *, status: int | None = None, body: bytes | None = None, **headers: str) -> None:
        """Send another status, body or headers (with ``_`` for ``-``; the others go away) for ``path``."""
        old = self.answers[path]
        self.answers[path] = (
            status or old[0],
            {name.replace("_", "-"): value for name, value in headers.items()} or old[1],
            old[2] if body is None else body,
        )


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            service.asked.append(self.path)
            parts = urlsplit(self.path)
            status, headers, body = service.answers.get(parts.path, (404, {}, b"not here"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    return Handler


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    service.port = server.server_address[1]
    with in_thread(server):
        yield service


def slow_head(connection: socket.socket) -> None:
    _drip(connection, b"HTTP/1.1 200 OK\r\nX-Header: " + b"a" * 60_000)


def slow_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    _drip(connection, b"a" * 60_000)


def slow_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _drip(connection, b"1\r\na\r\n" * 60_000)


def slow_trailers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    _drip(connection, b"X-Trailer: a\r\n" * 60_000)


def endless_continue(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.005)


def _drip(connection: socket.socket, data: bytes) -> None:
    for at in range(0, len(data), 4):
        connection.sendall(data[at : at + 4])
        time.sleep(0.01)


@contextlib.contextmanager
def stretching(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that never completes a response."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    behave(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
