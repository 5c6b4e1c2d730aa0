"""What a server may send instead of a file: pages, pointers and error messages, by their first bytes."""

from __future__ import annotations

JSON = "JSON"
BEGIN = 64
"""Bytes of a file that `meaning` looks at."""

_LOOKALIKES = (
    (b"version https://git-lfs", "a Git LFS pointer, which names the file and does not contain it"),
    (b"<!doctype html", "an HTML page, as a server sends instead of a missing file"),
    (b"<html", "an HTML page, as a server sends instead of a missing file"),
    (b"{", JSON),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
)


def meaning(begin: bytes) -> str | None:
    """What a file that begins like this is; None if it is none of the things that are sent by mistake."""
    lowered = begin.lstrip()[:BEGIN].lower()
    return next((text for start, text in _LOOKALIKES if lowered.startswith(start.lower())), None)
