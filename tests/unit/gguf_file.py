"""Small GGUF files for tests, written by the format's description."""

from __future__ import annotations

import struct

F32, F16, Q4_0 = 0, 1, 2


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, dimensions: tuple[int, ...], kind: int, start: int) -> bytes:
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + sizes + struct.pack("<IQ", kind, start)


def model(
    entries: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (tensor(b"w", (4,), F32, 0),),
    data: bytes = bytes(16),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    header = magic + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join((*entries, *tensors))
    return header + bytes(-len(header) % alignment) + data


SMALL = model((entry(b"general.architecture", 8, text(b"llama")),))
