"""A package index on this machine (PEP 691), with wheels that tests make."""

from __future__ import annotations

import hashlib
import http.server
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import wheel_file
from tests.unit.server_thread import in_thread

DAY = "2026-01-10T12:00:00Z"


@dataclass
class Index:
    """Files by name; ``asked`` are the paths of requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def add(
        self,
        name: str,
        version: str,
        *,
        tag: str = wheel_file.TAG,
        requires: tuple[str, ...] = (),
        at: str | None = DAY,
        build: str = "",
        yanked: str | bool = False,
    ) -> str:
        """Publish a wheel with one module; returns its SHA-256."""
        lines = [f"Requires-Dist: {each}" for each in requires]
        module = {f"{name.replace('-', '_')}/__init__.py": f"BUILD = {build!r}\n".encode()}
        data = wheel_file.wheel_bytes(name, version, module, tag=tag, metadata=lines)
        file = f"{name.replace('-', '_')}-{version}{f'-{build}' if build else ''}-{tag}.whl"
        return self.put(file, data, at=at, yanked=yanked)

    def put(self, file: str, data: bytes, *, at: str | None = DAY, yanked: str | bool = False) -> str:
        """Publish a file."""
        digest = hashlib.sha256(data).hexdigest()
        self.files[file] = data
        self.facts[file] = {"filename": file, "hashes": {"sha256": digest}, "size": len(data), "yanked": yanked}
        self.facts[file] |= {"upload-time": at} if at else {}
        return digest

    def page(self, name: str) -> bytes | None:
        rows = [
            {**facts, "url": f"{self.address}/files/{file}"}
            for file, facts in self.facts.items()
            if file.split("-")[0].replace("_", "-") == name
        ]
        return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": rows}).encode() if rows else None


@contextmanager
def serving() -> Iterator[Index]:
    """An empty index, and its address for pip."""
    index = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            _, room, name = (*self.path.rstrip("/").split("/"), "", "")[:3]
            body = index.page(name) if room == "simple" else index.files.get(name)
            kind = "application/vnd.pypi.simple.v1+json" if room == "simple" else "application/octet-stream"
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with in_thread(server):
        index.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield index
