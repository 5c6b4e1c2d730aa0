"""UEFI's compression (LZ77 with Huffman codes), reading only: option ROMs carry their drivers in it.

Source: UEFI 2.10 section 19 "Compression Algorithm Specification". Every length is bounded by what the header says,
and every code must be complete, so that a malformed stream ends in an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned

_HEADER = 8
_LITERALS = 256
_SHORTEST = 3
_SYMBOLS, _SYMBOL_BITS = 510, 9
_LENGTHS, _LENGTHS_BITS = 19, 5
_POSITIONS, _POSITIONS_BITS = 31, 4
_LONGEST_CODE = 16
_MAX_SIZE = 4 << 20  # a ROM's driver has some 100 KiB; a stream of no bits at all may claim as much
_WHAT = "compressed image"


class _Bits:
    """The stream's bits, most significant first. Past the end there are zeros, but only as many as a look ahead."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0
        self._held = 0
        self._count = 0

    def peek(self, count: int) -> int:
        while self._count < count:
            chunk = self._data[self._next : self._next + 4]
            self._held = self._held << 32 | int.from_bytes(chunk.ljust(4, b"\0"), "big")
            self._next += 4
            self._count += 32
        return self._held >> (self._count - count) & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self._count -= count
        self._held &= (1 << self._count) - 1
        if self._next - self._count // 8 > len(self._data) + 4:
            raise MeasurementError(f"{_WHAT}: it ends in the middle")

    def take(self, count: int) -> int:
        if count == 0:
            return 0
        value = self.peek(count)
        self.skip(count)
        return value


class _Code:
    """A canonical Huffman code as a table: the next bits -> symbol and its code's length."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._width = max(lengths, default=0)
        if not 1 <= self._width <= _LONGEST_CODE:
            raise MeasurementError(f"{_WHAT}: a code is {self._width} bits long")
        table: list[tuple[int, int]] = []
        for length in range(1, self._width + 1):
            for symbol, its in enumerate(lengths):
                if its == length:
                    table += [(symbol, length)] * (1 << (self._width - length))
            if len(table) > 1 << self._width:
                break
        if len(table) != 1 << self._width:
            raise MeasurementError(f"{_WHAT}: a Huffman code is not complete")
        self._table = table

    def next(self, bits: _Bits) -> int:
        symbol, length = self._table[bits.peek(self._width)]
        bits.skip(length)
        return symbol


class _Single:
    """A code of one symbol, which takes no bits."""

    def __init__(self, symbol: int) -> None:
        self._symbol = symbol

    def next(self, bits: _Bits) -> int:  # noqa: ARG002 - the other kind of code needs them
        return self._symbol


def _small_code(bits: _Bits, symbols: int, width: int, gap_at: int | None) -> _Code | _Single:
    """The code of code lengths (with a gap after its third symbol), or that of positions."""
    count = bits.take(width)
    if count == 0:
        return _Single(_below(bits.take(width), symbols))
    lengths: list[int] = []
    while len(lengths) < count:
        length = bits.take(3)
        if length == 7:
            while bits.take(1):
                length += 1
                if length > _LONGEST_CODE:
                    raise MeasurementError(f"{_WHAT}: a code is {length} bits long")
        lengths.append(length)
        if len(lengths) == gap_at:
            lengths += [0] * bits.take(2)
    _below(len(lengths) - 1, symbols)
    return _Code(lengths)


def _symbol_code(bits: _Bits, lengths_code: _Code | _Single) -> _Code | _Single:
    count = bits.take(_SYMBOL_BITS)
    if count == 0:
        return _Single(_below(bits.take(_SYMBOL_BITS), _SYMBOLS))
    lengths: list[int] = []
    while len(lengths) < count:
        value = lengths_code.next(bits)
        if value == 0:
            lengths.append(0)
        elif value == 1:
            lengths += [0] * (bits.take(4) + 3)
        elif value == 2:
            lengths += [0] * (bits.take(_SYMBOL_BITS) + 20)
        else:
            lengths.append(value - 2)
    _below(len(lengths) - 1, _SYMBOLS)
    return _Code(lengths)


def _below(value: int, limit: int) -> int:
    if value >= limit:
        raise MeasurementError(f"{_WHAT}: symbol {value}, expected less than {limit}")
    return value


def decompress(data: bytes) -> bytes:
    """The original bytes of a compressed image with its header (two sizes); ``MeasurementError`` when malformed.

    What follows the compressed bytes is padding and ignored.
    """
    packed, size = unsigned(data, 0, 4, _WHAT), unsigned(data, 4, 4, _WHAT)
    if size > _MAX_SIZE:
        raise MeasurementError(f"{_WHAT}: {size} bytes when unpacked, expected at most {_MAX_SIZE}")
    bits = _Bits(piece(data, _HEADER, packed, _WHAT))
    out = bytearray()
    while len(out) < size:
        symbols = bits.take(16)
        if symbols == 0:
            raise MeasurementError(f"{_WHAT}: an empty block")
        lengths_code = _small_code(bits, _LENGTHS, _LENGTHS_BITS, 3)
        symbol_code = _symbol_code(bits, lengths_code)
        position_code = _small_code(bits, _POSITIONS, _POSITIONS_BITS, None)
        for _ in range(symbols):
            if len(out) >= size:
                break
            symbol = symbol_code.next(bits)
            if symbol < _LITERALS:
                out.append(symbol)
                continue
            _copy(out, _distance(bits, position_code), symbol - _LITERALS + _SHORTEST, size)
    return bytes(out)


def _distance(bits: _Bits, code: _Code | _Single) -> int:
    width = code.next(bits)
    return (width if width < 2 else (1 << (width - 1)) + bits.take(width - 1)) + 1


def _copy(out: bytearray, distance: int, count: int, size: int) -> None:
    if distance > len(out):
        raise MeasurementError(f"{_WHAT}: a copy from {distance} bytes back, after {len(out)} bytes")
    count = min(count, size - len(out))
    start = len(out) - distance
    while count:
        part = out[start : start + min(count, distance)]
        out += part
        count -= len(part)
        start += len(part)
