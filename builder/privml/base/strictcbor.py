"""CBOR (RFC 8949) in one reading: definite lengths, shortest heads, no key twice, nothing after the end.

Maps keep their order, which need not be sorted. Floats, simple values other than false, true and null, and indefinite
lengths are refused. A decoded value is an int, bytes, str, bool, None, a tuple, a dict, or a `Tag`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_VALUES = 10_000
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLES = {20: False, 21: True, 22: None}


@dataclass(frozen=True)
class Tag:
    """A tagged value."""

    number: int
    value: Any


def decode(data: bytes, *, what: str = "CBOR", limit: int = MAX_BYTES) -> Any:
    """The one value that ``data`` encodes; ``EvidenceError`` for anything else, naming ``what``."""
    if len(data) > limit:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected at most {limit}")
    reader = _Reader(data, what)
    value = reader.value(0)
    if reader.at != len(data):
        raise EvidenceError(f"{what}: {len(data) - reader.at} bytes after its end")
    return value


def encode(value: Any) -> bytes:
    """The encoding that `decode` reads, maps in their order; ``TypeError`` for a value of another type."""
    if isinstance(value, bool) or value is None:
        return bytes([_SIMPLE << 5 | next(number for number, each in _SIMPLES.items() if each is value)])
    if isinstance(value, int):
        return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(value, tuple | list):
        return _head(_ARRAY, len(value)) + b"".join(map(encode, value))
    if isinstance(value, Mapping):
        items = (encode(key) + encode(item) for key, item in value.items())
        return _head(_MAP, len(value)) + b"".join(items)
    if isinstance(value, Tag):
        return _head(_TAG, value.number) + encode(value.value)
    raise TypeError(f"{type(value).__name__} has no encoding")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for argument, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | argument]) + number.to_bytes(size)
    raise TypeError(f"{number} has no encoding")


@dataclass
class _Reader:
    data: bytes
    what: str
    at: int = 0
    values: int = 0

    def value(self, depth: int) -> Any:
        start = self.at
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise self.error(start, f"more than {MAX_DEPTH} levels or {MAX_VALUES} values")
        major, number = self.head()
        if major == _UNSIGNED:
            return number
        if major == _NEGATIVE:
            return -1 - number
        if major == _BYTES:
            return self.take(number)
        if major == _TEXT:
            try:
                return self.take(number).decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.error(start, "a text that is not UTF-8") from error
        if major == _ARRAY:
            return tuple(self.value(depth + 1) for _ in range(number))
        if major == _MAP:
            return self.map(number, depth + 1)
        if major == _TAG:
            return Tag(number, self.value(depth + 1))
        if number not in _SIMPLES:
            raise self.error(start, f"simple value {number}")
        return _SIMPLES[number]

    def map(self, count: int, depth: int) -> dict[int | str, Any]:
        found: dict[int | str, Any] = {}
        for _ in range(count):
            start, key = self.at, self.value(depth)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise self.error(start, "a key that is no number and no text")
            if key in found:
                raise self.error(start, f"key `{str(key)[:40]}` twice")
            found[key] = self.value(depth)
        return found

    def head(self) -> tuple[int, int]:
        """The major type and the argument of the next item."""
        start = self.at
        [first] = self.take(1)
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short > 27 or major == _SIMPLE:
            raise self.error(start, "an indefinite length, a float or another head that is not read")
        size = 1 << short - 24
        number = int.from_bytes(self.take(size))
        if number < (24 if size == 1 else 1 << 4 * size):
            raise self.error(start, "a head that is longer than it must be")
        return major, number

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.error(self.at, f"its end, expected {count} more bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def error(self, at: int, found: str) -> EvidenceError:
        return EvidenceError(f"{self.what}: byte {at}: {found}")
