"""A registry that is written to, and a server that takes files by PUT, for tests.

The registry keeps the order of the distribution specification: an upload is begun, sent whole or in chunks, and ends
with its digest. Its members bend it: connections that break, uploads that it forgets, logins that it wants.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit.server_thread import in_thread

REPOSITORY = "project/images"
USER = "Basic " + base64.b64encode(b"ann:a secret").decode()


@dataclass
class Registry:
    """What it has, and what it was asked: method, path without a query, and status.

    ``wants`` is ``basic``, ``token`` or empty: who may do anything. ``cuts`` are the numbers of bytes after which the
    next uploads break; ``keeps`` says whether their part stays. ``unsure`` are answers to the next ends of uploads.
    ``bend`` are statuses by method and begin of a path.
    """

    wants: str = ""
    cuts: list[int] = field(default_factory=list)
    keeps: bool = True
    unsure: list[int] = field(default_factory=list)
    relative: bool = True
    location: str | None = None
    bend: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    given: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: int = 0
    address: str = ""

    @property
    def pool(self) -> str:
        return f"oci://{urlsplit(self.address).netloc}/{REPOSITORY}"

    def calls(self, method: str) -> list[tuple[str, int]]:
        return [(path, status) for each, path, status in self.asked if each == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry
    home = f"/v2/{REPOSITORY}"

    def log_message(self, *_: object) -> None:
        pass

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.registry.asked.append((self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        length = headers.pop("length", str(len(body)))
        if status != 204:
            self.send_header("Content-Length", length)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        registry, path = self.registry, urlsplit(self.path).path
        given = self.headers["Authorization"]
        registry.given.append((path, given))
        for (method, begin), (status, body) in registry.bend.items():
            if method == self.command and path.startswith(begin):
                self.close_connection = True  # the body is not read
                self.say(status, body)
                return
        if path == "/token":
            self.token(given)
        elif not self.allowed(given):
            self.close_connection = True
            challenge = f'Bearer realm="{registry.address}/token",service="here"'
            self.say(401, b"{}", WWW_Authenticate='Basic realm="x"' if registry.wants == "basic" else challenge)
        elif path.startswith(f"{self.home}/blobs/uploads/"):
            self.upload(path.removeprefix(f"{self.home}/blobs/uploads/"))
        elif path.startswith(f"{self.home}/blobs/sha256:"):
            found = registry.blobs.get(path.rpartition(":")[2])
            self.say(404) if found is None else self.say(200, found, length=str(len(found)))
        elif path.startswith(f"{self.home}/manifests/"):
            self.manifest(path.rpartition("/")[2])
        else:
            self.say(404)

    do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = handle_any

    def allowed(self, given: str | None) -> bool:
        wants = self.registry.wants
        return not wants or (given == USER if wants == "basic" else given == f"Bearer token-{self.registry.tokens}")

    def token(self, given: str | None) -> None:
        assert parse_qs(urlsplit(self.path).query)["scope"] == [f"repository:{REPOSITORY}:pull,push"]
        if given != USER:
            self.say(401, b"{}")
            return
        self.registry.tokens += 1
        self.say(200, json.dumps({"token": f"token-{self.registry.tokens}"}).encode())

    def place(self, name: str) -> str:
        registry = self.registry
        if registry.location is not None:
            return registry.location
        begin = "" if registry.relative else registry.address
        return f"{begin}{self.home}/blobs/uploads/{name}?state={len(registry.uploads[name])}"

    def upload(self, name: str) -> None:
        registry = self.registry
        if self.command == "POST":
            name = f"upload-{len(registry.uploads) + 1}"
            registry.uploads[name] = bytearray()
            self.say(202, Location=self.place(name), Range="0-0")
            return
        part = registry.uploads.get(name)
        if part is None:
            self.close_connection = True
            self.say(404, b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "gone"}]}')
        elif self.command == "GET":
            self.say(204, Location=self.place(name), Range=f"0-{max(len(part) - 1, 0)}")
        elif parse_qs(urlsplit(self.path).query)["state"] != [str(len(part))]:
            self.close_connection = True
            self.say(416)
        else:
            self.body(name, part)

    def body(self, name: str, part: bytearray) -> None:
        registry, length, begin = self.registry, int(self.headers["Content-Length"]), len(part)
        cut = registry.cuts.pop(0) if length and registry.cuts else length
        while len(part) < begin + min(cut, length):
            part += self.rfile.read(min(4096, begin + min(cut, length) - len(part)))
        if cut < length:
            if not registry.keeps:
                del registry.uploads[name]
            self.registry.asked.append((self.command, "broken", 0))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.command == "PUT" and registry.unsure and not length:
            self.say(registry.unsure.pop(0))
        elif self.command == "PATCH":
            assert self.headers["Content-Range"] == f"{begin}-{len(part) - 1}"
            self.say(202, Location=self.place(name), Range=f"0-{len(part) - 1}")
        else:
            wanted = parse_qs(urlsplit(self.path).query)["digest"][0]
            found = hashlib.sha256(part).hexdigest()
            if wanted != f"sha256:{found}":
                self.say(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "not its\\u001b[2J digest"}]}')
                return
            del registry.uploads[name]
            registry.blobs[found] = bytes(part)
            self.say(201, Location=f"{self.home}/blobs/{wanted}")

    def manifest(self, tag: str) -> None:
        registry = self.registry
        if self.command == "PUT":
            data = self.rfile.read(int(self.headers["Content-Length"]))
            found: dict[str, Any] = json.loads(data)
            assert self.headers["Content-Type"] == found["mediaType"]
            missing = [each["digest"] for each in (found["config"], *found["layers"])]
            if [each for each in missing if each.removeprefix("sha256:") not in registry.blobs]:
                self.say(400, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "a blob is missing"}]}')
                return
            registry.manifests[tag] = data
            self.say(201)
        elif tag in registry.manifests:
            digest = f"sha256:{hashlib.sha256(registry.manifests[tag]).hexdigest()}"
            self.say(200, registry.manifests[tag], Docker_Content_Digest=digest)
        else:
            self.say(404)


@contextlib.contextmanager
def serving() -> Iterator[Registry]:
    """An empty registry."""
    found = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (_Handler,), {"registry": found}))
    with in_thread(server):
        found.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield found


@dataclass
class Files:
    """A server that takes files by PUT. ``bend`` are statuses by method; ``cuts`` as of `Registry`."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bend: dict[str, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    login: str | None = None
    address: str = ""


class _FilesHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_files: Files

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        files, status, body = self.server_files, 404, b""
        files.asked.append((self.command, self.path))
        if files.login is not None and self.headers["Authorization"] != files.login:
            status, self.close_connection = 401, True
        elif self.command in files.bend:
            status, self.close_connection = files.bend[self.command], True
        elif self.command == "PUT":
            length = int(self.headers["Content-Length"])
            cut = files.cuts.pop(0) if files.cuts else length
            data = self.rfile.read(min(cut, length))
            if cut < length:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            assert re.fullmatch(r"/pool/sha256/[0-9a-f]{2}/[0-9a-f]{62}", self.path)
            files.files[self.path], status = data, 201
        elif self.path in files.files:
            status, body = 200, files.files[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET = do_PUT = handle_any


@contextlib.contextmanager
def serving_files() -> Iterator[Files]:
    """An empty server for files; ``address`` is that of the pool."""
    found = Files()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (_FilesHandler,), {"server_files": found}))
    with in_thread(server):
        found.address = f"http://127.0.0.1:{server.server_address[1]}/pool"
        yield found
