"""One request to the engine: an engine that is quick, or gone, is neither an error of ours nor an unnamed one."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from privml.agent import exchange
from privml.base.errors import HostError

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def engine(serve: Callable[[socket.socket], None]) -> Iterator[Path]:
    """A socket at which ``serve`` is done with each connection, which is then closed."""
    with tempfile.TemporaryDirectory(prefix="privml-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "engine.sock"
        listener.bind(str(path))
        listener.listen()

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def quick(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(4096)
    connection.sendall(OK)


def test_an_engine_that_answers_and_closes_at_once_has_answered() -> None:
    with engine(quick) as path:
        for _ in range(300):
            assert exchange.whole(path, "GET", "/health", timeout=10, limit=100) == (200, b"")


def test_an_engine_that_closes_unasked_is_named() -> None:
    with engine(lambda connection: None) as path, pytest.raises(HostError, match=r"^engine: "):
        exchange.whole(path, "POST", "/v1/completions", (), b"x" * (8 << 20), timeout=10, limit=100)
