"""An OCI registry for tests: blobs by digest, behind a token service and a redirect to another server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.unit.server_thread import in_thread

REPOSITORY = "project/images"


@dataclass
class Registry:
    """What it serves, and what it was asked: path and `Authorization`. The members bend its answers."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""
    storage: str = ""
    challenge: str | None = None
    answer: bytes = b'{"token": "anonymous-1", "expires_in": 300}'
    status: int = 200
    wanted: str | None = "Bearer anonymous-1"
    loops: bool = False
    endless: bool = False

    @property
    def pool(self) -> str:
        return f"oci://{urlsplit(self.address).netloc}/{REPOSITORY}"

    @property
    def home(self) -> str:
        return f"/v2/{REPOSITORY}/blobs/sha256:"

    def challenged(self) -> str:
        if self.challenge is not None:
            return self.challenge
        return f'Bearer realm="{self.address}/token?x=1",service="registry",scope="repository:of/others:push"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        registry, parts = self.registry, urlsplit(self.path)
        given = self.headers["Authorization"]
        registry.asked.append((self.path, given))
        if parts.path == "/token":
            assert parse_qs(parts.query)["scope"] == [f"repository:{REPOSITORY}:pull"]
            self.say(registry.status, registry.answer)
        elif not parts.path.startswith(registry.home):
            self.say(404, b"no such thing")
        elif given != registry.wanted:
            self.say(401, b"{}", **{"WWW-Authenticate": registry.challenged()})
        elif (digest := parts.path.removeprefix(registry.home)) not in registry.blobs:
            self.say(404, b"{}")
        elif registry.storage:
            self.say(307, b"", Location=f"{registry.storage}/{digest}")
        else:
            self.say(200, registry.blobs[digest])

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Storage(_Handler):
    def do_GET(self) -> None:
        self.registry.asked.append((f"storage{self.path}", self.headers["Authorization"]))
        if self.registry.loops:
            self.say(307, b"", Location=self.path)
        elif self.registry.endless:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 4096)
            self.close_connection = True
        else:
            self.say(200, self.registry.blobs[self.path[1:]])


@contextlib.contextmanager
def serving() -> Iterator[Registry]:
    """A registry and its storage, on two servers."""
    found = Registry()
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (kind,), {"registry": found}))
        for kind in (_Handler, _Storage)
    ]
    with in_thread(servers[0]), in_thread(servers[1]):
        found.address, storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
        found.storage = storage
        yield found


def encoded(token: object) -> bytes:
    return json.dumps({"token": token}).encode()
