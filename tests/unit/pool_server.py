"""A static web server for tests: a folder's files, and a list of the requested paths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.unit.server_thread import in_thread


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of ``folder``, and the requested paths."""
    asked: list[str] = []
    handler = type("OfThisFolder", (Handler,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    with in_thread(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
