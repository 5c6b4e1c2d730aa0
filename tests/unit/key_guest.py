"""A guest that waits for keys, as a small HTTPS server; and a broker on a free port."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from broker_samples import RESOURCE, Desk, Guest, guest
from server_thread import in_thread
from terminator_certificate import certificate

from privml.channel.kem import X25519
from privml.channel.suites import CannotOpen
from privml.client.courier import RELEASE_PATH, REQUEST_PATH
from privml.client.listening import listening_sockets
from privml.client.stages import PATH
from privml.events.stagetable import Row, StageTable
from privml.keybroker import server

_START = 10.0


@contextlib.contextmanager
def broker_at(desk: Desk, tls: server.Tls | None = None) -> Iterator[int]:
    """Serve the desk's broker; yields the port."""
    with listening_sockets("127.0.0.1", 0) as bound:
        port: int = bound[0].getsockname()[1]
        running = server.server(desk.broker, tls)
        thread = threading.Thread(target=running.run, kwargs={"sockets": bound})
        thread.start()
        try:
            end = time.monotonic() + _START
            while not running.started:
                assert time.monotonic() < end
                time.sleep(0.01)
            yield port
        finally:
            running.should_exit = True
            thread.join()


@dataclass
class Waiting:
    """What the guest waits for, by broker's name, and what it has got.

    ``first`` are errors (status, code) that it answers before anything else, for each path in turn. ``bent`` are
    changes of its document. ``closed`` is the status of its stage `keys`, once that is over.
    """

    wanted: dict[str, tuple[bytes, list[tuple[str, int]]]]
    identity: Guest = field(default_factory=lambda: guest(X25519))
    first: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    bent: dict[str, Any] = field(default_factory=dict)
    keys: dict[tuple[str, int], bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    closed: str = ""

    def missing(self) -> list[tuple[bytes, str, str, int]]:
        """Broker, its name, resource and generation of what is not there yet."""
        return [
            (key, name, *each)
            for name, (key, resources) in self.wanted.items()
            for each in resources
            if each not in self.keys
        ]

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        path, _, query = target.partition("?")
        self.asked.append(f"{method} {path}")
        if self.first.get(path):
            status, code = self.first[path].pop(0)
            return status, json.dumps({"error": {"code": code, "message": "as the test wants"}}).encode()
        if path == PATH:
            return 200, StageTable(False, (Row("keys", self.closed),)).encode()
        if self.closed:
            return 503, json.dumps({"error": {"code": "keys-closed", "message": "over"}}).encode()
        if (method, path) == ("GET", REQUEST_PATH) and query:
            nonce = bytes.fromhex(query.removeprefix("nonce="))
            return 200, self.identity.document(nonce, **self.bent).encode()
        if (method, path) == ("GET", REQUEST_PATH):
            rows = [
                {"broker": key.hex(), "name": name, "resource": resource, "generation": generation}
                for key, name, resource, generation in self.missing()
            ]
            return 200, json.dumps({"wanted": rows}).encode()
        assert (method, path) == ("POST", RELEASE_PATH)
        return self._take(body)

    def _take(self, body: bytes) -> tuple[int, bytes]:
        for key, _ in self.wanted.values():
            try:
                said, keys = self.identity.opened(body, key)
            except (CannotOpen, Exception):  # noqa: BLE001 - of another broker
                continue
            names = [(each.resource, each.generation) for each in said.resources]
            self.keys.update(zip(names, keys, strict=True))
            left = [{"broker": name, "resource": r, "generation": g} for _, name, r, g in self.missing()]
            taken = [{"resource": r, "generation": g} for r, g in names]
            return 200, json.dumps({"released": taken, "missing": left}).encode()
        return 400, json.dumps({"error": {"code": "release-signature", "message": "of no broker"}}).encode()


def waiting(*desks: Desk, resource: str = RESOURCE) -> Waiting:
    """A guest that waits for one key of each broker."""
    return Waiting({f"owner-{n}": (desk.store.public, [(resource, 1)]) for n, desk in enumerate(desks)})


@contextlib.contextmanager
def guest_at(made: Waiting, place: Path) -> Iterator[str]:
    """Serve the guest; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, found = made.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    place.mkdir(exist_ok=True)
    context.load_cert_chain(certificate(place), place / "key.pem")
    made_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made_server.socket = context.wrap_socket(made_server.socket, server_side=True)
    with in_thread(made_server):
        yield f"https://127.0.0.1:{made_server.server_address[1]}"
