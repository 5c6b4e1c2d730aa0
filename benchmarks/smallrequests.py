"""An engine and callers of small requests that cost little themselves: 0.02 ms of processor time each.

Both are loops of system calls. An engine and callers on asyncio cost more than what is measured, so that rates on one
machine said more about them.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import time

SMALL = b'{"choices":[{"text":"ok"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(SMALL), SMALL)
_ENDS = (SMALL, SMALL + b"\r\n0\r\n\r\n")
_PIECE = 1 << 16


def engine(path: str) -> None:
    """Answer every request on a Unix socket with `ANSWER`, whatever it asks; each arrives in one piece."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(512)
    listener.setblocking(False)
    waiting = select.epoll()
    waiting.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        connection, _ = listener.accept()
                        connections[connection.fileno()] = connection
                        waiting.register(connection, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            with contextlib.suppress(OSError):  # of a caller that has left
                if connection.recv(_PIECE):
                    connection.send(ANSWER)
                    continue
            del connections[descriptor]
            waiting.unregister(descriptor)
            connection.close()


def load(port: int, request: bytes, context: ssl.SSLContext | None, number: int, seconds: float) -> int:
    """How many answers ``number`` callers got in ``seconds``: each on one connection, one request after the other."""
    waiting, callers, parts = select.epoll(), {}, {}
    for _ in range(number):
        caller = socket.create_connection(("127.0.0.1", port))
        if context is not None:
            caller = context.wrap_socket(caller)
        caller.setblocking(False)
        caller.send(request)
        callers[caller.fileno()], parts[caller.fileno()] = caller, b""
        waiting.register(caller, select.EPOLLIN)
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for descriptor, _ in waiting.poll(0.1):
            try:
                piece = callers[descriptor].recv(_PIECE)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            data = parts[descriptor] + piece
            if not piece or not data.startswith(b"HTTP/1.1 200 "[: len(data)]):
                raise ConnectionError(f"port {port}: not an answer: {data[:200]!r}")
            parts[descriptor] = data
            if data.endswith(_ENDS):
                parts[descriptor] = b""
                count += 1
                callers[descriptor].send(request)
    for caller in callers.values():
        caller.close()
    return count


if __name__ == "__main__":
    engine(sys.argv[1])
