"""The protocol of the guest's own sockets: one line of canonical JSON each for request and response.

The peer of the quote socket is the network-facing process, so lines are bounded, strictly parsed and read with a
deadline. The kernel identifies the peer (SO_PEERCRED).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError, PrivmlError
from privml.base.strictjson import canonical, loads

MAX_REQUEST = 128 * 1024
MAX_ANSWER = 12 * 1024 * 1024
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
