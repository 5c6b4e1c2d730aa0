"""The chunks of chunked oblivious HTTP: a length and a sealed chunk each; the last has length zero and its own label.

Lengths are not authenticated, and need not be: a chunk that was cut or joined does not open. A message without its
final chunk is never complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from privml.channel.suites import TAG_SIZE, CannotOpen
from privml.channel.varint import LONGEST, Cursor, Short, encode

FINAL = b"final"
"""The associated data of the last chunk; that of others is empty."""
SENT_CHUNK = 16384
"""The largest plaintext that is sent in a chunk: some implementations take no more."""


class Seals(Protocol):
    """What seals messages in order."""

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """Seal the next message."""


class Opens(Protocol):
    """What opens messages in order."""

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """Open the next message, or raise ``CannotOpen``."""


@dataclass(frozen=True)
class ChunkLimits:
    """Bounds of a message in chunks, of plaintext where they are bytes."""

    chunk: int = 65536
    chunks: int = 4096
    total: int = 17 * 1024 * 1024


REQUEST_LIMITS = ChunkLimits()
RESPONSE_LIMITS = ChunkLimits(chunks=2**24, total=2**32)
"""Of a streamed response, which is never held as a whole."""


class ChunkSealer:
    """Seals the chunks of one message."""

    def __init__(self, messages: Seals) -> None:
        self._messages: Seals | None = messages

    def chunk(self, plain: bytes) -> bytes:
        """The encoding of a part that is not the last: chunks of at most `SENT_CHUNK` bytes, none for no bytes."""
        messages = self._unfinished()
        parts = []
        for start in range(0, len(plain), SENT_CHUNK):
            sealed = messages.seal(plain[start : start + SENT_CHUNK])
            parts += [encode(len(sealed)), sealed]
        return b"".join(parts)

    def final(self, plain: bytes = b"") -> bytes:
        """The encoding of the last part. A message without it is refused, so leave it out when something broke."""
        split = max(len(plain) - 1, 0) // SENT_CHUNK * SENT_CHUNK
        before = self.chunk(plain[:split])
        return before + encode(0) + self._finish().seal(plain[split:], FINAL)

    def _unfinished(self) -> Seals:
        if self._messages is None:
            raise ValueError("a chunk after the final one")
        return self._messages

    def _finish(self) -> Seals:
        """What seals the last part; nothing can be sealed after it."""
        messages, self._messages = self._unfinished(), None
        return messages


class ChunkOpener:
    """Opens the chunks of one message in any pieces. After ``CannotOpen`` every call raises it."""

    def __init__(self, messages: Opens, limits: ChunkLimits) -> None:
        self._messages, self._limits = messages, limits
        self._buffer = bytearray()
        self._ending = self._closed = False
        self._count = self._size = 0

    def feed(self, data: bytes) -> bytes:
        """The plaintext of the chunks that ``data`` completes. It is not known yet whether more follows."""
        self._close()
        self._buffer += data
        plain = bytearray()
        while (sealed := self._next()) is not None:
            plain += self._open(sealed, b"")
        self._closed = False
        return bytes(plain)

    def end(self) -> bytes:
        """The plaintext of the final chunk, after the last byte came; ``CannotOpen`` if it is missing."""
        self._close()
        if not self._ending:
            raise CannotOpen
        return self._open(bytes(self._buffer), FINAL)

    def _close(self) -> None:
        if self._closed:
            raise CannotOpen
        self._closed = True

    def _next(self) -> bytes | None:
        if not self._ending:
            if not self._buffer:  # the usual case after a chunk; `Short` costs ten times as much
                return None
            cursor = Cursor(bytes(self._buffer[:LONGEST]), "chunk")
            try:
                size = cursor.varint()
            except Short:
                return None
            if size:
                if not TAG_SIZE < size <= self._limits.chunk + TAG_SIZE:
                    raise CannotOpen
                if len(self._buffer) < cursor.position + size:
                    return None
                sealed = bytes(self._buffer[cursor.position : cursor.position + size])
                del self._buffer[: cursor.position + size]
                return sealed
            del self._buffer[: cursor.position]
            self._ending = True
        if len(self._buffer) > self._limits.chunk + TAG_SIZE:
            raise CannotOpen
        return None

    def _open(self, sealed: bytes, associated: bytes) -> bytes:
        self._count += 1
        self._size += len(sealed) - TAG_SIZE
        if self._count > self._limits.chunks or self._size > self._limits.total:
            raise CannotOpen
        return self._messages.open(sealed, associated)
