"""The attestor's two sockets: one canonical JSON line asks, one answers, and the connection ends.

The other side of the quote socket is the process that the network can attack, so lines are bounded, strictly parsed,
and read against a deadline; who is there is the kernel's word (SO_PEERCRED), not the caller's.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads

MAX_REQUEST = 128 * 1024
MAX_ANSWER = 12 * 1024 * 1024
_CREDENTIALS = struct.Struct("3i")


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end when it connected."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def send(connection: socket.socket, value: Any) -> None:
    """One line."""
    connection.sendall(canonical(value) + b"\n")


def receive(connection: socket.socket, *, limit: int, timeout: float) -> Any:
    """One line within ``timeout`` seconds; ``EvidenceError`` for anything that is not exactly one line of JSON."""
    end = time.monotonic() + timeout
    data = bytearray()
    while not data.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise EvidenceError(f"attestor message: not whole after {timeout:g} s")
        connection.settimeout(left)
        try:
            piece = connection.recv(256 * 1024)
        except TimeoutError as late:
            raise EvidenceError(f"attestor message: not whole after {timeout:g} s") from late
        if not piece:
            raise EvidenceError("attestor message: the connection ended early")
        data += piece
        if len(data) > limit:
            raise EvidenceError(f"attestor message: more than {limit} bytes")
    return loads(bytes(data[:-1]), what="attestor message", limit=limit)


def ask(path: Path, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Connect, ask, and give the answer object; ``HostError`` when the attestor is not there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            send(connection, request)
            answer = receive(connection, limit=MAX_ANSWER, timeout=timeout)
        except OSError as error:
            raise HostError(f"attestor: {error.strerror or error}") from error
    if not isinstance(answer, dict):
        raise EvidenceError("attestor message: not an object")
    return answer


def listen(path: Path, *, mode: int, group: int | None = None) -> socket.socket:
    """A listening socket at ``path``; the mode holds before anybody can connect."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(mode)
    if group is not None:
        os.chown(path, -1, group)
    listener.listen(16)
    return listener
