"""A model hub for tests: `/REPO/resolve/COMMIT/FILE` names a large file's digest and redirects to another host."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.unit.server_thread import in_thread

REPO, COMMIT = "acme/tiny-GGUF", "12fd25f77366fa6b3b4b768ec3050bf629380bac"


@dataclass
class Hub:
    """Files by name. ``how`` is what the hub does with them: ``link``, ``plain`` (no headers), or ``pointer``."""

    files: dict[str, bytes]
    how: str = "link"
    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    logins: list[tuple[str, str | None]] = field(default_factory=list)


def pointer(data: bytes) -> bytes:
    digest = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        host = (self.headers["Host"] or "").partition(":")[0]
        self.hub.asked.append((self.command, f"{host}{self.path}"))
        self.hub.logins.append((host, self.headers["Authorization"]))
        route = f"/{REPO}/resolve/{COMMIT}/"
        if self.path.startswith("/blobs/"):
            self._file(next((data for data in self.hub.files.values() if _sha256(data) == self.path[7:]), None))
        elif self.path.startswith(route) and (data := self.hub.files.get(self.path.removeprefix(route))) is not None:
            if self.hub.how == "pointer":
                self._file(pointer(data))
                return
            port = self.server.server_address[1]
            headers = {"Location": f"http://localhost:{port}/blobs/{_sha256(data)}"}
            if self.hub.how == "link":
                headers |= {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
            self._answer(302, b"", headers)
        else:
            self._file(None)

    def _file(self, data: bytes | None) -> None:
        self._answer(404, b"no") if data is None else self._answer(200, data)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub with ``files``; the hub is 127.0.0.1 and its store localhost."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    with in_thread(server):
        yield hub
