"""A server's connection whose writes of one turn of the event loop leave as one: a head with the body that is there.

Nothing waits for what is not there yet: the turn ends before the loop waits for anything.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

_AT_ONCE = 64 * 1024
"""Bytes that are written before the turn ends."""


class GatheringProtocol(H11Protocol):
    """uvicorn's protocol over a `Gathered` transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the gathering transport in the place of ``transport``."""
        super().connection_made(cast(asyncio.Transport, Gathered(cast(asyncio.Transport, transport), self.loop)))


class Gathered:
    """A transport that writes once for each turn of ``loop``. Everything else is ``transport``'s own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn, or at once if much is there."""
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what there is, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._transport.write(data)
