"""HTTP over a Unix socket: what an engine in a guest listens on, for loads that ask it without agent and proxy."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

UNIX = "unix:"
"""What the address of a Unix socket begins with; its path follows."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SocketConnections:
    """One kept connection to a Unix socket, with the methods of `Connections` that a load needs.

    ``timeout`` is seconds for each socket operation. Not to be shared between threads.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._connection = _Connection(path, timeout)
        self._address = f"{UNIX}{path}"

    def __enter__(self) -> SocketConnections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send POST to ``url``, the socket's address with a path behind it; the response, with its body unread.

        It is sent again if the kept connection turns out to be closed, as llama-server does after each stream.
        """
        kept = self._connection.sock is not None
        try:
            return self._sent(url, body, headers)
        except (OSError, http.client.HTTPException):
            if not kept:
                raise
            return self._sent(url, body, headers)

    def _sent(self, url: str, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.request("POST", url.removeprefix(self._address), body, dict(headers))
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    def drop(self, _url: str) -> None:
        """Close the connection, because a body was not read completely; the next request opens it again."""
        self._connection.close()
