"""The last line of an engine that ended before the machine was ready: the reason that the engine itself gives.

What an engine prints goes to the process that started it (`agent.engine`), which keeps the end of it in memory and
offers one line when the engine has ended. The boot process takes it only during the engine's first start, before any
request. Later nobody listens, and the line is gone with the process. ADR 0115.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT = 400
"""Maximum bytes of a line."""
_TAIL = 4096
_PIECE = 64 * 1024


class Listener:
    """The boot process's end: a datagram socket at ``path``, in which ``group`` may write. To be closed."""

    def __init__(self, path: Path, group: int) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        path.chmod(0o620)
        os.chown(path, -1, group)

    def line(self) -> str:
        """What was offered first; empty if nothing. The caller cleans it: it is of the engine's user."""
        try:
            return self._socket.recv(LIMIT).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        """Nothing is taken from now on."""
        self._path.unlink(missing_ok=True)
        self._socket.close()


def run(argv: Sequence[str], environment: Mapping[str, str], place: Path) -> int:
    """Run a program to its end and offer its last line at ``place``; its exit status, as a shell gives it.

    ``OSError`` if it cannot be started. Nothing it prints leaves this process but the line, of at most `LIMIT` bytes.
    """
    output, written = os.pipe()
    try:
        try:
            program = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=written, stderr=written
            )
        finally:
            os.close(written)
        tail = _read(output, program.pid)
        status = program.wait()
    finally:
        os.close(output)
    if line := last(tail):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as offer:
            offer.setblocking(False)
            offer.sendto(line, str(place))
    return status if status >= 0 else 128 - status


def last(text: bytes) -> bytes:
    """The last line with something in it, cut at its end."""
    return next((line.strip()[:LIMIT] for line in reversed(text.splitlines()) if line.strip()), b"")


def _read(output: int, pid: int) -> bytes:
    """The end of what a process and its children write until it ends itself; its children may go on."""
    tail = b""
    ended = os.pidfd_open(pid)
    try:
        watch = select.poll()
        watch.register(ended, select.POLLIN)
        watch.register(output, select.POLLIN)
        while ended not in dict(watch.poll()):
            piece = os.read(output, _PIECE)
            tail = (tail + piece)[-_TAIL:]
            if not piece:
                watch.unregister(output)
        # A pipe holds no more than this.
        os.set_blocking(output, False)
        with contextlib.suppress(BlockingIOError):
            tail = (tail + os.read(output, _PIECE))[-_TAIL:]
    finally:
        os.close(ended)
    return tail
