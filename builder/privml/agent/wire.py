"""The protocol of the guest's own sockets: one line of canonical JSON each for request and response.

The peer of the quote socket is the network-facing process, so lines are bounded, strictly parsed and read with a
deadline. The kernel identifies the peer (SO_PEERCRED).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError, PrivmlError
from privml.base.strictjson import Fields, canonical, loads

MAX_REQUEST = 128 * 1024
MAX_ANSWER = 12 * 1024 * 1024
REQUEST_TIMEOUT = 10.0
_CREDENTIALS = struct.Struct("3i")


class RefusedRequest(PrivmlError):
    """A request was refused; ``code`` is the reason for the calling program."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the peer at the time it connected."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def send(connection: socket.socket, value: Any) -> None:
    """Send one line."""
    connection.sendall(canonical(value) + b"\n")


def receive(connection: socket.socket, *, limit: int, timeout: float, what: str = "attestor") -> Any:
    """Receive one line within ``timeout`` seconds; ``EvidenceError`` unless it is exactly one line of JSON.

    ``what`` names the peer in errors.
    """
    end = time.monotonic() + timeout
    data = bytearray()
    while not data.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise EvidenceError(f"{what} message: incomplete after {timeout:g} s")
        connection.settimeout(left)
        try:
            piece = connection.recv(256 * 1024)
        except TimeoutError as late:
            raise EvidenceError(f"{what} message: incomplete after {timeout:g} s") from late
        if not piece:
            raise EvidenceError(f"{what} message: the connection was closed early")
        data += piece
        if len(data) > limit:
            raise EvidenceError(f"{what} message: larger than {limit} bytes")
    return loads(bytes(data[:-1]), what=f"{what} message", limit=limit)


def ask(
    path: Path, request: dict[str, Any], *, timeout: float, limit: int = MAX_ANSWER, what: str = "attestor"
) -> dict[str, Any]:
    """Send ``request`` and return the response object; ``HostError`` when ``what`` does not listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            send(connection, request)
            answer = receive(connection, limit=limit, timeout=timeout, what=what)
        except OSError as error:
            raise HostError(f"{what}: {error.strerror or error}") from error
    if not isinstance(answer, dict):
        raise EvidenceError(f"{what} message: not an object")
    return answer


def result_of(value: object, what: str) -> dict[str, Any]:
    """What ``what`` answered by `converse`; ``RefusedRequest`` if it refused."""
    answer = Fields(value, what)
    if answer.has("error"):
        error = answer.fields("error")
        raise RefusedRequest(error.text("code"), error.text("message", limit=100_000))
    result = answer.take("ok")
    answer.end()
    if not isinstance(result, dict):
        raise EvidenceError(f"{what}.ok: not an object")
    return result


def converse(connection: socket.socket, allowed: Collection[int], answer: Callable[[object], dict[str, Any]]) -> None:
    """Read one request of a user in ``allowed``, and answer it or say why not. No input raises an error here."""
    with connection:
        try:
            if peer(connection)[1] not in allowed:
                return
            request = receive(connection, limit=MAX_REQUEST, timeout=REQUEST_TIMEOUT)
            reply = _reply(answer, request)
            connection.settimeout(REQUEST_TIMEOUT)
            send(connection, reply)
        except (OSError, EvidenceError):
            return


def _reply(answer: Callable[[object], dict[str, Any]], request: object) -> dict[str, Any]:
    try:
        return {"ok": answer(request)}
    except RefusedRequest as refused:
        code, why = refused.code, refused.message
    except EvidenceError as malformed:
        code, why = "malformed", malformed.message
    except (PrivmlError, OSError) as error:
        code, why = "unavailable", str(error)
    return {"error": {"code": code, "message": why}}


def listen(path: Path, *, mode: int, group: int | None = None) -> socket.socket:
    """Create a listening socket at ``path``; its mode is set before the first connection is accepted."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(mode)
    if group is not None:
        os.chown(path, -1, group)
    listener.listen(16)
    return listener
