"""Check that files are a whole GGUF model: header, metadata, tensor list, and every tensor within its file.

A model may be split into several files, NAME-00001-of-00003.gguf and so on, as gguf-split does.

Reads the file once from its start and never its tensors. Layout and tensor types: ggml-org/ggml, docs/gguf.md and
include/ggml.h (block sizes as in gguf-py's constants).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 1 << 20
"""Metadata entries, and tensors."""
MAX_ITEMS = 1 << 24
"""Items of a metadata array; vocabularies have less than a million."""
MAX_TEXT = 1 << 24
MAX_DIMENSIONS = 4
MAX_PARTS = 1000
ALIGNMENT = 32
_PIECE = 1 << 20

_SIZES: Mapping[int, int] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value by its type; strings (8) and arrays (9) have a length of their own."""
_TEXT, _ARRAY, _UINT32 = 8, 9, 4
_NUMBERS: Mapping[int, str] = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}

_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""Tensor types: elements of a block, and its bytes. Of an unknown type only the start is checked."""


@dataclass(frozen=True)
class Header:
    """What one file says about itself: its tensors, its place in a split model, and the model's licence."""

    tensors: int
    part: int = 0
    parts: int = 1
    # In all parts of a split model; None if it does not say.
    tensors_of_all: int | None = None
    licence: str | None = None


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


def part_names(name: str) -> tuple[str, ...]:
    """The names of all files of the model that has a file ``name``, in order."""
    match = re.fullmatch(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= MAX_PARTS:
        return (name,)
    return tuple(f"{match[1]}-{number:05}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1))


def beside(place: Path) -> tuple[str, ...]:
    """The names of all files of the model at ``place``, which is its first one; ``ValueError`` if it is another."""
    names = part_names(place.name)
    if place.name != names[0]:
        raise ValueError(f"`{place.name}` is a part of a split model, expected its first part, `{names[0]}`")
    return names


def together(paths: Sequence[str]) -> bool:
    """True if files with these paths can be one model: one file, or all parts of a split one."""
    names = [path.rpartition("/")[2] for path in paths]
    return len(paths) == 1 or set(names) == set(part_names(names[0]))


def ordered(paths: Sequence[str]) -> tuple[str, ...]:
    """The paths as they are given: parts out of order are refused."""
    return tuple(paths)


def whole(files: Sequence[tuple[str, Header]]) -> None:
    """Raise ``ValueError`` with the reason if files, each with its name and header, are not one whole model."""
    first = files[0][1]
    if len(files) != first.parts:
        raise ValueError(f"it is part {first.part + 1} of {first.parts}, and {len(files)} of the files are given")
    names = [name.rpartition("/")[2] for name, _ in files]
    if len(files) > 1 and names != list(part_names(names[0])):
        expected = f"NAME-00001-of-{len(files):05}.gguf and so on, in order"
        raise ValueError(f"its parts are {', '.join(names)}, expected {expected}")
    for number, (name, header) in enumerate(files):
        if (header.part, header.parts) != (number, len(files)):
            raise ValueError(
                f"{name} is part {header.part + 1} of {header.parts}, expected part {number + 1} of {len(files)}"
            )
    tensors = sum(header.tensors for _, header in files)
    if not tensors:
        raise ValueError("it has no tensors")
    if first.tensors_of_all not in (None, tensors):
        raise ValueError(f"its parts have {tensors} tensors, expected {first.tensors_of_all}")


def check(file: IO[bytes], size: int) -> Header:
    """Raise ``ValueError`` with the reason if ``file`` (of ``size`` bytes) is not a whole GGUF file."""
    reader = _Reader(file)
    magic = reader.take(min(4, size))
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}, expected {MAGIC!r}")
    version = reader.number("I")
    if version not in VERSIONS:
        raise ValueError(f"GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")
    tensors = reader.count("tensors", MAX_ENTRIES)
    entries = reader.count("metadata entries", MAX_ENTRIES)
    known: dict[bytes, int | bytes] = {}
    for _ in range(entries):
        key, value = _entry(reader)
        if value is not None and key in _READ:
            known[key] = value
    alignment = _number(known, b"general.alignment", ALIGNMENT, 8, 1 << 20)
    if alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment}, expected a power of two")
    ends = [_tensor(reader, alignment) for _ in range(tensors)]
    parts = _number(known, b"split.count", 1, 0, MAX_PARTS) or 1
    header = Header(
        tensors,
        part=_number(known, b"split.no", 0, 0, parts - 1),
        parts=parts,
        tensors_of_all=_number(known, b"split.tensors.count", 0, 0, MAX_ENTRIES) or None,
        licence=_licence(known.get(b"general.license")),
    )
    # The first part of a split model may have only the metadata.
    if not ends and parts == 1:
        raise ValueError("it has no tensors")
    data = -(-reader.position // alignment) * alignment
    if ends and data + max(ends) > size:
        raise ValueError(f"it has {size} bytes, and its tensors end at byte {data + max(ends)}")
    return header


_READ = (b"general.alignment", b"general.license", b"split.no", b"split.count", b"split.tensors.count")


def _number(known: Mapping[bytes, int | bytes], key: bytes, default: int, low: int, high: int) -> int:
    found = known.get(key, default)
    if not isinstance(found, int) or not low <= found <= high:
        shown = found if isinstance(found, int) else "text"
        raise ValueError(f"{key.decode()} is {shown}, expected {low} to {high}")
    return found


def _licence(found: int | bytes | None) -> str | None:
    text = found.decode("utf-8", "replace").strip() if isinstance(found, bytes) else ""
    return text if text and text.isascii() and text.isprintable() and len(text) <= 200 else None


def _entry(reader: _Reader) -> tuple[bytes, int | bytes | None]:
    """Read one metadata entry: its key, and its value if that is a whole number or text."""
    key, kind = reader.text(), reader.number("I")
    if key == b"general.alignment" and kind != _UINT32:
        raise ValueError(f"general.alignment is a value of type {kind}, expected {_UINT32}")
    if kind in _NUMBERS:
        return key, reader.number(_NUMBERS[kind])
    if kind == _TEXT:
        return key, reader.text()
    count = 1
    if kind == _ARRAY:
        kind = reader.number("I")
        count = reader.count("items in an array", MAX_ITEMS)
        if kind == _TEXT:
            for _ in range(count):
                reader.skip(reader.count("bytes of text", MAX_TEXT))
            return key, None
    if kind not in _SIZES:
        raise ValueError(f"a metadata value of the unknown type {kind}")
    reader.skip(count * _SIZES[kind])
    return key, None


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
