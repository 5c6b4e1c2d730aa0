"""Small files of safetensors for tests, written by the format's description."""

from __future__ import annotations

import json
import struct
from typing import Any


def entry(begin: int, end: int, shape: list[int] | None = None, kind: str = "U8") -> dict[str, Any]:
    return {"dtype": kind, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def made(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


SMALL = made({"a": entry(0, 2), "b": entry(2, 4)}, b"1234")


def index(files: dict[str, list[str]]) -> bytes:
    weights = {tensor: file for file, tensors in files.items() for tensor in tensors}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}).encode()
