"""Locate the differences of two files or two JSON values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from privml.base import strictjson

_BLOCK = 4096
_SHOWN = 200
_MAX_WORDS = 256
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


def differing_keys(a: Any, b: Any) -> list[tuple[str, str, str]]:
    """(name with dots, first value, second value) of each key that differs in two configurations.

    Objects in a list are named by their ``name`` if each has one (``services.metrics.memory``) and by their position
    otherwise; models and data, which have the position of their volume, always by position. Lists of words of
    different lengths differ by the words that only one side has.
    """
    tables = [dict(_keys(value, "")) for value in (a, b)]
    found = []
    for key in dict.fromkeys([*tables[0], *tables[1]]):
        one, two = (table.get(key, _NONE) for table in tables)
        if (one == two and type(one) is type(two)) or _filled(key, one, tables[1]) or _filled(key, two, tables[0]):
            continue
        if not isinstance(one, list) or not isinstance(two, list) or max(len(one), len(two)) > _MAX_WORDS:
            found.append((key, _word(one), _word(two)))
        elif len(one) == len(two):
            pairs = enumerate(zip(one, two, strict=True))
            found += [(f"{key}[{number}]", _word(x), _word(y)) for number, (x, y) in pairs if x != y]
        else:
            found.append((key, *_without_common(one, two)))
    return found


def _filled(key: str, value: Any, other: dict[str, Any]) -> bool:
    """Whether an empty ``value`` has keys on the other side, which are listed themselves."""
    return value in (None, [], {}) and any(name.startswith((f"{key}.", f"{key}[")) for name in other)


def _keys(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _keys(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        names = [item.get("name") for item in value]
        named = name not in ("models", "data") and len({str(each) for each in names}) == len(names) and all(names)
        for number, item in enumerate(value):
            yield from _keys(item, f"{name}.{names[number]}" if named else f"{name}[{number}]")
    else:
        yield name, value


def _without_common(a: list[Any], b: list[Any]) -> tuple[str, str]:
    words = [[_word(item) for item in side] for side in (a, b)]
    blocks = [
        block
        for block in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
        if block[0] != "equal"
    ]
    before = [word for _, start, end, _, _ in blocks for word in words[0][start:end]]
    after = [word for _, _, _, start, end in blocks for word in words[1][start:end]]
    return " ".join(before) or "none", " ".join(after) or "none"


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else _text(value)


def _text(value: Any) -> str:
    if value is _NONE:
        return "none"
    text = strictjson.canonical(value).decode("utf-8")
    # The rest of a long value still tells it from another one.
    rest = hashlib.sha256(text.encode()).hexdigest()[:16] if len(text) > _SHOWN else ""
    return f"{text[:_SHOWN]}.. (sha256 {rest}..)" if rest else text
