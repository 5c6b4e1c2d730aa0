"""The only network-facing process: TLS 1.3 and a few paths. It keeps nothing of requests or responses.

`/healthz`, `/readyz`, `/boot-stages` and `/.well-known/privml-attestation` are answered here; `/v1/` goes to the
engine, if the measured configuration names one, `/x/NAME/` to the service of that name; both only once every stage
has passed. Requests and responses are
written to their connection and nowhere else.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import h11

from privml.agent import headers, identity
from privml.agent.attestor import AttestorClient, RefusedRequest
from privml.agent.batch import Busy, QuoteBatch
from privml.agent.exchange import Exchange
from privml.agent.inference import engine_body
from privml.agent.layout import Layout
from privml.base.errors import EvidenceError, PrivmlError
from privml.base.strictjson import canonical, loads, unhex
from privml.engines.engine import Engine
from privml.engines.registry import engine_named
from privml.engines.requests import UnsupportedError
from privml.events import configuration, services
from privml.events.configuration import Config
from privml.events.stages import SERVE, STAGES
from privml.evidence.quotefault import FAULTS, QuoteFault

MAX_HEAD = 32 * 1024
_PIECE = 16 * 1024  # one TLS record; a request head can exceed its limit by at most one piece
HANDSHAKE_TIMEOUT = 30.0
IDLE_TIMEOUT = 60.0
BODY_TIMEOUT = 120.0
WRITE_TIMEOUT = 120.0
QUOTE_TIMEOUT = 120.0
ENGINE_TIMEOUT = 900.0
SERVICE_TIMEOUT = 120.0
SERVICE_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
SERVICE_BODY = 2 * 1024 * 1024
ATTESTATION = "/.well-known/privml-attestation"


class _Answer(PrivmlError):
    """End of a request with a status and a JSON error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Server:
    """A thread per connection: enough for ``max_concurrency`` engine answers, and some for the other paths.

    ``engine`` is None when the measured configuration names none.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        self.engine = None if config.engine is None else engine_named(config.engine.name)
        self.services = frozenset(service.name for service in config.services)
        self._layout = layout
        self._stages_file = layout.stages
        self._attestor = AttestorClient(layout)
        self._quotes = QuoteBatch(self._quote)
        self._fault: QuoteFault | None = None
        self._answers = threading.BoundedSemaphore(config.max_concurrency)
        self._connections = threading.BoundedSemaphore(2 * config.max_concurrency + 32)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.set_alpn_protocols(["http/1.1"])
        identity.load_tls(layout, self._context)

    def serve(self, listener: socket.socket) -> None:
        """Accept connections forever; those over the limit wait in the kernel's queue."""
        while True:
            self._connections.acquire()
            try:
                connection, _ = listener.accept()
            except OSError:
                self._connections.release()
                time.sleep(0.1)  # out of descriptors, or the caller has already disconnected
                continue
            threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(HANDSHAKE_TIMEOUT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    _Conversation(self, tls).run()
        except (OSError, h11.ProtocolError):
            return  # the caller disconnected, or never spoke TLS or HTTP; no response is possible
        finally:
            self._connections.release()

    # Called by the connections.

    def stages(self) -> tuple[bool, bytes]:
        """Readiness and the stage table, as last written by the boot process.

        While the last quote failed, the stage of the TEE is a warning that says why.
        """
        try:
            data = self._stages_file.read_bytes()
            value = loads(data, what="stages")
        except (OSError, EvidenceError):
            return False, b'{"format":"privml-stages/v1","ready":false,"stages":[]}\n'
        fault = self._fault
        if fault is not None:
            for row in value["stages"]:
                if row["name"] == STAGES[0].name:
                    row |= {"status": "warning", "detail": f"{row['detail']}; no quote: {fault}"}
            data = canonical(value) + b"\n"
        return isinstance(value, dict) and value.get("ready") is True, data

    def _quote(self, root: bytes) -> Mapping[str, Any]:
        """Get a quote over ``root`` from the attestor, and note why if there is none."""
        try:
            parts = self._attestor.quote(root, SERVE, timeout=QUOTE_TIMEOUT)
        except RefusedRequest as refused:
            self._fault = FAULTS.get(refused.code)
            raise
        self._fault = None
        return parts

    def document(self, query: str) -> bytes:
        """The attestation document over the caller's nonce."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=4)
        except ValueError:
            pairs = []
        if [name for name, _ in pairs] != ["nonce"]:
            raise _Answer(400, "nonce", "expected exactly `?nonce=` and 64 lower-case hex digits")
        try:
            nonce = unhex(pairs[0][1], 32, what="nonce")
        except EvidenceError as error:
            raise _Answer(400, "nonce", error.message) from error
        try:
            return self._quotes.document(nonce, timeout=QUOTE_TIMEOUT).encode()
        except RefusedRequest as refused:
            raise _Answer(503, refused.code, refused.message) from refused
        except Busy as busy:
            raise _Answer(503, "busy", busy.message) from busy
        except PrivmlError as error:
            raise _Answer(503, "unavailable", "attestation: the attestor does not answer") from error

    def forward(self, engine: Engine, request: h11.Request, target: str, body: bytes) -> Exchange:
        """Forward a request to the engine; the calling code reads the response."""
        try:
            return _exchange(self._layout.engine_socket(engine), request, target, body, ENGINE_TIMEOUT)
        except PrivmlError as error:
            raise _Answer(502, "engine", "the engine does not answer") from error

    def forward_to_service(self, name: str, request: h11.Request, target: str, body: bytes) -> Exchange:
        """Forward a request to one of the image's own services; the calling code reads the response."""
        try:
            return _exchange(self._layout.service_socket(name), request, target, body, SERVICE_TIMEOUT)
        except PrivmlError as error:
            raise _Answer(502, "service", f"the service {name} does not answer") from error

    @property
    def answers(self) -> threading.BoundedSemaphore:
        """One permit for each concurrent engine answer."""
        return self._answers


class _Conversation:
    """One TLS connection: requests in sequence, until either side closes it or breaks the protocol."""

    def __init__(self, server: Server, tls: ssl.SSLSocket) -> None:
        self._server = server
        self._tls = tls
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._head_only = False

    def run(self) -> None:
        while True:
            try:
                event = self._next(time.monotonic() + IDLE_TIMEOUT)
                if not isinstance(event, h11.Request):
                    return
                self._request(event)
            except h11.RemoteProtocolError as error:
                self._error(_Answer(error.error_status_hint, "malformed", "malformed HTTP/1.1"))
                return
            except _Answer as answer:
                self._error(answer)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    def _request(self, request: h11.Request) -> None:
        target = request.target.decode("ascii")
        path, _, query = target.partition("?")
        method = request.method.decode("ascii")
        self._head_only = method == "HEAD"
        if path.startswith("/v1/"):
            self._inference(request, target)
            return
        if path.startswith(services.PREFIX):
            self._service(request, target)
            return
        ready, stages = self._server.stages()
        if path not in ("/healthz", "/readyz", "/boot-stages", ATTESTATION):
            raise _Answer(404, "not-found", "unknown path")
        if method not in ("GET", "HEAD"):
            raise _Answer(405, "method", f"{path} expects GET")
        self._body(request, 0)
        if path == "/healthz":
            self._respond(200, b'{"alive":true}\n')
        elif path == "/readyz":
            self._respond(200 if ready else 503, canonical({"ready": ready}) + b"\n")
        elif path == "/boot-stages":
            self._respond(200, stages)
        else:
            self._respond(200, self._server.document(query))

    def _inference(self, request: h11.Request, target: str) -> None:
        engine = self._server.engine
        if engine is None:
            raise _Answer(404, "no-inference", "this image runs no model; it only attests")
        if not self._is_ready():
            return
        with self._turn():
            body = self._body(request, engine.requests.body)
            path, _, query = target.partition("?")
            try:
                shown = engine_body(engine.requests, request.method.decode("ascii"), path, query, body)
            except UnsupportedError as error:
                raise _Answer(error.status, "unsupported", error.message) from error
            with self._server.forward(engine, request, path, shown) as exchange:
                self._stream(exchange)

    def _service(self, request: h11.Request, target: str) -> None:
        name, slash, rest = target.removeprefix(services.PREFIX).partition("/")
        if not slash or name not in self._server.services:
            raise _Answer(404, "no-service", "this image has no service of that name")
        method = request.method.decode("ascii")
        if method not in SERVICE_METHODS:
            raise _Answer(405, "method", f"a service expects {', '.join(SERVICE_METHODS)}")
        if not self._is_ready():
            return
        with self._turn():
            body = self._body(request, SERVICE_BODY)
            with self._server.forward_to_service(name, request, f"/{rest}", body) as exchange:
                self._stream(exchange)

    def _is_ready(self) -> bool:
        """False once the caller was told that the machine is not ready."""
        ready, stages = self._server.stages()
        if not ready:
            # The stage list is next to the error, so that an operator sees the reason from any client.
            table = loads(stages, what="stages")
            raise_body = {"error": _error_object("not-ready", "this machine is not ready"), "stages": table}
            self._respond(503, canonical(raise_body) + b"\n", close=True)
        return ready

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One of the concurrent answers."""
        if not self._server.answers.acquire(blocking=False):
            raise _Answer(429, "busy", "this machine is already answering as many requests as it can")
        try:
            yield
        finally:
            self._server.answers.release()

    def _stream(self, exchange: Exchange) -> None:
        """Stream the answer of the engine or a service to the caller."""
        self._tls.settimeout(WRITE_TIMEOUT)
        self._send(h11.Response(status_code=exchange.status, headers=headers.returned(exchange.headers)))
        try:
            for piece in exchange.pieces():
                self._send(h11.Data(data=piece))
        except PrivmlError as error:
            # The status is already sent: a broken connection is the only sign that the answer is incomplete.
            raise ConnectionAbortedError("the answer was cut off") from error
        self._send(h11.EndOfMessage())

    def _body(self, request: h11.Request, limit: int) -> bytes:
        declared = next((value for name, value in request.headers if name == b"content-length"), b"0")
        if int(declared) > limit:
            raise _Answer(413, "too-large", f"body larger than {limit} bytes")
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        end = time.monotonic() + BODY_TIMEOUT
        body = bytearray()
        while isinstance(event := self._next(end), h11.Data):
            body += event.data
            if len(body) > limit:
                raise _Answer(413, "too-large", f"body larger than {limit} bytes")
        return bytes(body)

    def _error(self, answer: _Answer) -> None:
        body = canonical({"error": _error_object(answer.code, answer.message)}) + b"\n"
        self._respond(answer.status, body, close=True)

    def _respond(self, status: int, body: bytes, *, close: bool = False) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if close:
            fields.append((b"connection", b"close"))
        self._tls.settimeout(WRITE_TIMEOUT)
        self._send(h11.Response(status_code=status, headers=fields))
        if not self._head_only:
            self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        if close:
            self._drain()

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


def _exchange(place: Path, request: h11.Request, target: str, body: bytes, timeout: float) -> Exchange:
    """Send a request to the unix socket ``place``, with the headers that are passed on."""
    sent = headers.forwarded([(bytes(name), bytes(value)) for name, value in request.headers])
    return Exchange(place, request.method.decode("ascii"), target, sent, body, timeout=timeout)


def _error_object(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message, "type": "privml"}


def listen(port: int, host: str = "", *, ipv6: bool = False) -> socket.socket:
    """Create the server's TCP socket, on all addresses unless ``host`` names one; ``ipv6``: of both IP versions."""
    if ipv6:
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    return socket.create_server((host, port), backlog=256)


def main(layout: Layout | None = None) -> int:
    """Wait for this boot's identity, then serve."""
    layout = layout or Layout()
    try:
        config = configuration.read(layout.config)
        while not identity.is_there(layout):
            time.sleep(0.1)
        server = Server(config, layout)
        listener = listen(config.listen, ipv6=any(card.has_ipv6 for card in config.network))
    except (PrivmlError, OSError) as error:
        sys.stderr.write(f"privml: server: {error}\n")
        return 1
    server.serve(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
