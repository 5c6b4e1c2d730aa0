"""SHA-384, and bounds-checked reads of little-endian structures in artefacts."""

from __future__ import annotations

import hashlib
import mmap
from typing import TypeAlias

from privml.base.errors import MeasurementError

Bytes: TypeAlias = bytes | mmap.mmap
"""An artefact: in memory, or a file that is too big for that. Slices of both are ``bytes``."""


def sha384(data: bytes) -> bytes:
    """The 48-byte SHA-384 digest of ``data``."""
    return hashlib.sha384(data).digest()


def piece(data: Bytes, offset: int, size: int, what: str) -> bytes:
    """``size`` bytes of ``data`` at ``offset``; ``MeasurementError`` naming ``what`` when the data is too short.

    A slice would shorten silently and yield a plausible, wrong digest.
    """
    if offset < 0 or size < 0 or offset + size > len(data):
        raise MeasurementError(f"{what}: bytes {offset} to {offset + size} of a file of {len(data)} bytes")
    return data[offset : offset + size]


def unsigned(data: Bytes, offset: int, size: int, what: str) -> int:
    """A little-endian unsigned integer of ``size`` bytes; ``MeasurementError`` as ``piece``."""
    return int.from_bytes(piece(data, offset, size, what), "little")
