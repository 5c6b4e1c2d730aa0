"""The connection to the engine: how a misbehaving engine affects a request."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h11
import pytest

from privml.agent import exchange
from privml.base.errors import HostError

ANSWER = b"HTTP/1.1 413 too large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"


@contextlib.contextmanager
def engine(behave: Callable[[socket.socket], object]) -> Iterator[Path]:
    """A socket whose server handles one connection with ``behave`` and closes it."""
    with tempfile.TemporaryDirectory(prefix="privml-") as name, socket.socket(socket.AF_UNIX) as listener:
        path = Path(name) / "engine.sock"
        listener.bind(str(path))
        listener.listen()

        def meet() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        one = threading.Thread(target=meet)
        one.start()
        try:
            yield path
        finally:
            one.join(60)


def ask(path: Path, body: bytes = b"", *, timeout: float = 60) -> tuple[int, bytes]:
    return exchange.whole(path, "POST", "/v1/completions", (), body, timeout=timeout, limit=1000)


def test_an_early_refusal_by_the_engine_is_returned() -> None:
    with engine(lambda connection: connection.sendall(ANSWER)) as path:
        assert ask(path, b"x" * (4 << 20)) == (413, b"no")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"", "not HTTP"),
        (b"HTTP/1.1 200 ok\r\ncontent-length: 9\r\n\r\nhalf", "not HTTP|ended"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 ok\r\ncontent-length: 2000\r\n\r\n" + b"y" * 2000, "larger than 1000 bytes"),
    ],
)
def test_a_malformed_response_is_an_engine_error(said: bytes, text: str) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with engine(behave) as path, pytest.raises(HostError, match=f"engine: .*({text})"):
        ask(path)


def test_a_silent_or_absent_engine_is_an_error() -> None:
    release = threading.Event()
    with engine(lambda _: release.wait(60)) as path:
        with pytest.raises(HostError, match="engine: timed out"):
            ask(path, timeout=0.1)
        release.set()
    with pytest.raises(HostError, match="engine: No such file"):
        ask(path)


@pytest.mark.parametrize("reads", [False, True], ids=["while it is sent", "while the head is awaited"])
def test_a_request_ends_when_its_caller_leaves(reads: bool) -> None:
    release = threading.Event()

    def behave(connection: socket.socket) -> None:
        left = 4 << 20
        while reads and left > 0:
            left -= len(connection.recv(65536))
        release.wait(3)

    here, caller = socket.socketpair()
    with engine(behave) as path, here:
        leaves = threading.Timer(0.1, caller.close)
        leaves.start()
        with pytest.raises(HostError, match="engine: the caller has disconnected"):
            exchange.Exchange(path, "POST", "/", (), b"x" * (4 << 20), timeout=2, caller=here.fileno())
        release.set()
        leaves.join()


def test_chunks_that_arrived_together_are_one_piece_and_none_waits_for_the_next() -> None:
    head = b"HTTP/1.1 200 ok\r\ntransfer-encoding: chunked\r\n\r\n"
    go_on = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head + b"1\r\na\r\n1\r\nb\r\n")
        assert go_on.wait(60)
        connection.sendall(b"1\r\nc\r\n1\r\nd\r\n0\r\n\r\n")

    with engine(behave) as path, exchange.Exchange(path, "GET", "/", timeout=60) as sent:
        pieces = sent.pieces()
        assert next(pieces) == b"ab"
        go_on.set()
        assert list(pieces) == [b"cd"]


@pytest.mark.parametrize("last", [b"2\r\ncd", b"z\r\ncd\r\n"])
def test_an_answer_that_is_cut_off_is_an_error_after_its_pieces(last: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 ok\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"2\r\nab\r\n")
        connection.sendall(last)

    with (
        engine(behave) as path,
        exchange.Exchange(path, "GET", "/", timeout=60) as sent,
        pytest.raises(HostError, match="engine"),
    ):
        list(sent.pieces())


@pytest.mark.parametrize(
    ("said", "ready", "body"),
    [
        (b"content-length: 2\r\n\r\nok", True, b"ok"),
        (b"content-length: 0\r\n\r\n", True, b""),
        (b"content-length: 4\r\n\r\nok", True, b"ok++"),  # the rest comes later
        (b"content-length: 2\r\n\r\n", True, b"++"),
        (b"content-length: 2\r\n\r\nokay", True, b"ok"),  # what follows is not of this answer
        (b"Content-Length:2\r\n\r\nok", True, b"ok"),  # not of the usual form: h11 reads it
        (b"x: \r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, b"ok"),
    ],
)
def test_a_body_of_stated_length_is_read_to_its_end(said: bytes, ready: bool, body: bytes) -> None:
    go_on = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nServer: x\r\n" + said)
        go_on.wait(60)
        with contextlib.suppress(OSError):
            connection.sendall(b"++")

    with engine(behave) as path, exchange.Exchange(path, "POST", "/", body=b"{}", timeout=60) as sent:
        assert (sent.status, sent.headers[0], sent.ready) == (200, (b"server", b"x"), ready)
        go_on.set()
        assert b"".join(sent.pieces()) == body


@pytest.mark.parametrize(("target", "headers"), [("/a b", []), ("/", [(b"accept", b"a\r\nx: y")])])
def test_a_request_that_cannot_be_written_is_not_sent(target: str, headers: list[tuple[bytes, bytes]]) -> None:
    heard: list[bytes] = []
    with (
        engine(lambda connection: heard.append(connection.recv(65536))) as path,
        pytest.raises(h11.LocalProtocolError),
    ):
        exchange.Exchange(path, "GET", target, headers, timeout=60)
    assert heard == [b""]
