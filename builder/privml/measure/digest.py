"""SHA-384, and bounds-checked reads of little-endian structures in artefacts."""

from __future__ import annotations

import hashlib

from privml.base.errors import MeasurementError


def sha384(data: bytes) -> bytes:
    """The 48-byte SHA-384 digest of ``data``."""
    return hashlib.sha384(data).digest()


def piece(data: bytes, offset: int, size: int, what: str) -> bytes:
    """``size`` bytes of ``data`` at ``offset``; ``MeasurementError`` naming ``what`` when they are not all there.

    A slice would shorten silently and yield a plausible, wrong digest.
    """
    if offset < 0 or size < 0 or offset + size > len(data):
        raise MeasurementError(f"{what}: bytes {offset} to {offset + size} of a file of {len(data)} bytes")
    return data[offset : offset + size]


def unsigned(data: bytes, offset: int, size: int, what: str) -> int:
    """A little-endian unsigned integer of ``size`` bytes; ``MeasurementError`` as ``piece``."""
    return int.from_bytes(piece(data, offset, size, what), "little")
