"""Check that a file is a whole GGUF model: header, metadata, tensor list, and every tensor within the file.

Reads the file once from its start and never its tensors. Layout and tensor types: ggml-org/ggml, docs/gguf.md and
include/ggml.h (block sizes as in gguf-py's constants).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from typing import IO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 1 << 20
"""Metadata entries, and tensors."""
MAX_ITEMS = 1 << 24
"""Items of a metadata array; vocabularies have less than a million."""
MAX_TEXT = 1 << 24
MAX_DIMENSIONS = 4
ALIGNMENT = 32
_PIECE = 1 << 20

_SIZES: Mapping[int, int] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value by its type; strings (8) and arrays (9) have a length of their own."""
_TEXT, _ARRAY, _UINT32 = 8, 9, 4

_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""Tensor types: elements of a block, and its bytes. Of an unknown type only the start is checked."""


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.position = 0

    def take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"it ends after {self.position + len(data)} bytes, within its header")
        self.position += size
        return data

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.take(min(size, _PIECE)))

    def number(self, form: str) -> int:
        found: int = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return found

    def count(self, what: str, limit: int) -> int:
        found = self.number("Q")
        if found > limit:
            raise ValueError(f"it says {found} {what}, expected at most {limit}")
        return found

    def text(self) -> bytes:
        return self.take(self.count("bytes of text", MAX_TEXT))


def check(file: IO[bytes], size: int) -> None:
    """Raise ``ValueError`` with the reason if ``file`` (of ``size`` bytes) is not a whole GGUF model."""
    reader = _Reader(file)
    magic = reader.take(min(4, size))
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}, expected {MAGIC!r}")
    version = reader.number("I")
    if version not in VERSIONS:
        raise ValueError(f"GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")
    tensors = reader.count("tensors", MAX_ENTRIES)
    entries = reader.count("metadata entries", MAX_ENTRIES)
    alignment = ALIGNMENT
    for _ in range(entries):
        alignment = _entry(reader) or alignment
    ends = [_tensor(reader, alignment) for _ in range(tensors)]
    if not ends:
        raise ValueError("it has no tensors")
    data = -(-reader.position // alignment) * alignment
    if data + max(ends) > size:
        raise ValueError(f"it has {size} bytes, and its tensors end at byte {data + max(ends)}")


def _entry(reader: _Reader) -> int | None:
    """Read one metadata entry; the value of ``general.alignment``, None for every other."""
    key, kind = reader.text(), reader.number("I")
    if key == b"general.alignment":
        found = reader.number("I")
        if kind != _UINT32 or not 8 <= found <= 1 << 20 or found & (found - 1):
            raise ValueError(f"alignment {found}, expected a power of two from 8 to 1048576")
        return found
    if kind == _ARRAY:
        kind = reader.number("I")
        count = reader.count("items in an array", MAX_ITEMS)
        if kind == _TEXT:
            for _ in range(count):
                reader.skip(reader.count("bytes of text", MAX_TEXT))
            return None
    else:
        count = 1
        if kind == _TEXT:
            reader.text()
            return None
    if kind not in _SIZES:
        raise ValueError(f"a metadata value of the unknown type {kind}")
    reader.skip(count * _SIZES[kind])
    return None


def _tensor(reader: _Reader, alignment: int) -> int:
    """Read one entry of the tensor list; where the tensor ends, from the start of the data."""
    name = reader.text()
    dimensions = reader.number("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"tensor {name[:60]!r} has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
    elements = prod(reader.number("Q") for _ in range(dimensions))
    kind, start = reader.number("I"), reader.number("Q")
    if start % alignment:
        raise ValueError(f"tensor {name[:60]!r} starts at {start}, which is not a multiple of {alignment}")
    if kind not in _BLOCKS:
        return start
    block, size = _BLOCKS[kind]
    return start + -(-elements // block) * size
