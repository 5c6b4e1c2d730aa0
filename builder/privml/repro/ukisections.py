"""The sections of a UKI, to compare them with those of another."""

from __future__ import annotations

import hashlib

from privml.measure.pe import headers, in_memory

_TEXTS = (".cmdline", ".uname", ".osrel")


def contents(image: bytes) -> dict[str, bytes]:
    """The content of each section by name; a repeated name gets an apostrophe."""
    found: dict[str, bytes] = {}
    for section in headers(image).sections:
        name = section.name
        while name in found:
            name += "'"
        found[name] = in_memory(image, section)
    return found


def shown(body: bytes, name: str) -> str:
    """How messages show a section: its text, or its digest."""
    text = body.rstrip(b"\0")
    if name in _TEXTS and text.isascii():
        return text.decode("ascii").strip().replace("\n", "; ")
    return f"sha256 {hashlib.sha256(body).hexdigest()} ({len(body)} bytes)"
