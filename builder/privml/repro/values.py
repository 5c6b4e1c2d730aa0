"""Locate the differences of two files or two JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privml.base import strictjson

_BLOCK = 4096
_NONE = object()


def where(a: Path, b: Path) -> str:
    """The offset of the first differing byte and the number of differing blocks."""
    first, blocks, at = None, 0, 0
    with a.open("rb") as one, b.open("rb") as two:
        while True:
            x, y = one.read(_BLOCK), two.read(_BLOCK)
            if not x and not y:
                break
            if x != y:
                blocks += 1
                if first is None:
                    same = next(
                        (n for n, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y))
                    )
                    first = at + same
            at += _BLOCK
    return f"from byte {first}, in {blocks} blocks of {_BLOCK}"


def differing(a: Any, b: Any, pointer: str = "") -> list[tuple[str, str, str]]:
    """(JSON pointer, first value, second value) of each difference between two JSON values."""
    if isinstance(a, dict) and isinstance(b, dict):
        rows = [(key, a.get(key, _NONE), b.get(key, _NONE)) for key in sorted({*a, *b})]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        rows = [(str(n), x, y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b and type(a) is type(b) else [(pointer or "/", _text(a), _text(b))]
    return [found for key, x, y in rows for found in differing(x, y, f"{pointer}/{key}")]


def _text(value: Any) -> str:
    return "none" if value is _NONE else strictjson.canonical(value).decode("utf-8")[:200]
