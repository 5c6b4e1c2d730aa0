"""Variable-length integers of QUIC (RFC 9000 section 16) and a reader of bytes that never reads past the end."""

from __future__ import annotations

from privml.base.errors import EvidenceError

MAX = 2**62 - 1
LONGEST = 8
"""Bytes of the longest encoding."""
_ONE_BYTE = 63  # the largest value in one byte


class Short(EvidenceError):
    """The data ends inside a value. A stream may go on; a whole message may not."""


def encode(value: int) -> bytes:
    """The shortest encoding of ``value``."""
    if 0 <= value <= _ONE_BYTE:
        return bytes((value,))
    for power, size in enumerate((1, 2, 4, 8)):
        if 0 <= value < 1 << (8 * size - 2):
            return (value | power << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{value}, expected 0 to {MAX}")


def prefixed(data: bytes) -> bytes:
    """``data`` after its length."""
    return encode(len(data)) + data


class Cursor:
    """Reads values from ``data`` in order; ``what`` names it in errors."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self.position = data, what, 0

    @property
    def left(self) -> int:
        """How many bytes were not read yet."""
        return len(self._data) - self.position

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start, end = self.position, self.position + size
        if end > len(self._data):
            raise Short(f"{self._what}: ends at byte {len(self._data)}, expected {size - self.left} more")
        self.position = end
        return self._data[start:end]

    def number(self, size: int) -> int:
        """A big-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def varint(self, *, shortest: bool = False) -> int:
        """A variable-length integer. Lengths may be written longer than needed; with ``shortest`` they may not."""
        first = self.number(1)
        if first <= _ONE_BYTE:
            return first
        size = 1 << (first >> 6)
        value = (first & 0x3F) << (8 * (size - 1)) | self.number(size - 1)
        if shortest and len(encode(value)) != size:
            raise EvidenceError(f"{self._what}: {value} in {size} bytes, expected its shortest form")
        return value

    def prefixed(self, limit: int, name: str) -> bytes:
        """Bytes after their length, at most ``limit``."""
        size = self.varint()
        if size > limit:
            raise EvidenceError(f"{self._what}: {name} of {size} bytes, expected at most {limit}")
        return self.take(size)

    def end(self) -> None:
        """``EvidenceError`` if anything is left."""
        if self.left:
            raise EvidenceError(f"{self._what}: {self.left} bytes after the end")
