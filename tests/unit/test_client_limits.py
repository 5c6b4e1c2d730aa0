"""Silent, slow and many connections to the servers for callers anywhere."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from terminator_certificate import certificate

from privml.client.limits import Limits, Server
from privml.client.listening import listening_sockets

LONG = 60.0
WAIT = 10.0


async def _read(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@contextlib.contextmanager
def serving(limits: Limits, tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """A server whose ``POST /`` says how many bytes it got, and whose ``GET /`` reads none."""
    routes = [Route("/", _read, methods=["POST"]), Route("/", lambda _: PlainTextResponse("here"))]
    with listening_sockets("127.0.0.1", 0) as bound:
        port: int = bound[0].getsockname()[1]
        server = Server(Starlette(routes=routes), limits, tls)
        thread = threading.Thread(target=server.run, kwargs={"sockets": bound})
        thread.start()
        try:
            end = time.monotonic() + WAIT
            while not server.started:
                assert time.monotonic() < end
                time.sleep(0.01)
            yield port
        finally:
            server.should_exit = True
            thread.join()


def connected(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WAIT, (source, 0))


def ended(sock: socket.socket) -> bool:
    """True once the server ended the connection, whatever it sent before."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def answer(sock: socket.socket) -> bytes:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return sock.recv(1 << 16)


HEAD = Limits(connections=3, of_one=3, head=0.3, body=LONG)
BODY = Limits(connections=3, of_one=3, head=LONG, body=0.3)
TRICKLED = {
    "nothing": (HEAD, b""),
    "half a head": (HEAD, b"GET / HTTP/1.1\r\nHost: a\r\nX-"),
    "half a body": (BODY, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"),
    "a body that nobody reads": (HEAD, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"),
}


@pytest.mark.parametrize("name", TRICKLED)
def test_a_connection_ends_in_time_and_single_bytes_extend_nothing(name: str) -> None:
    limits, sent = TRICKLED[name]
    with serving(limits) as port, connected(port) as sock:
        sock.sendall(sent)
        sock.settimeout(0.05)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                if not sock.recv(1 << 16):
                    break
            except TimeoutError:
                if sent:
                    with contextlib.suppress(OSError):
                        sock.send(b"x")
            except ConnectionResetError:
                break
        assert time.monotonic() < end


def test_a_body_and_its_answer_may_take_longer_than_a_head() -> None:
    with serving(HEAD) as port, connected(port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(WAIT)
        sock.sendall(b"b")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_a_handshake_that_never_comes_ends_in_time(tmp_path: Path) -> None:
    tls = (certificate(tmp_path), tmp_path / "key.pem")
    with serving(HEAD, tls) as port, connected(port) as sock:
        assert ended(sock)


def test_one_address_has_its_share_and_others_have_theirs() -> None:
    limits = Limits(connections=10, of_one=2, head=LONG, body=LONG)
    with serving(limits) as port, contextlib.ExitStack() as open_ones:
        first, second, third = (open_ones.enter_context(connected(port)) for _ in range(3))
        assert ended(third)
        assert b"200 OK" in answer(first)
        assert b"200 OK" in answer(second)
        assert b"200 OK" in answer(open_ones.enter_context(connected(port, "127.0.0.2")))
        first.close()
        assert b"200 OK" in _retried(port)


def _retried(port: int) -> bytes:
    """An answer, once the server has seen that another connection ended."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        with connected(port) as sock, contextlib.suppress(ConnectionError):
            if found := answer(sock):
                return found
    return b""


def test_silent_connections_of_many_addresses_keep_nobody_out() -> None:
    limits = Limits(connections=4, of_one=2, head=LONG, body=LONG)
    with serving(limits) as port, contextlib.ExitStack() as open_ones:
        silent = [open_ones.enter_context(connected(port, f"127.0.0.{2 + n // 2}")) for n in range(4)]
        with connected(port) as sock:
            assert b"200 OK" in answer(sock)
        assert ended(silent[0]), "the one that has been silent for the longest time"
