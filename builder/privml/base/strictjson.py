"""Strict JSON and base64: ambiguous input is refused, output is canonical.

The canonical form is RFC 8785 (JCS) restricted to what privml documents use: objects with ASCII keys, arrays,
strings, booleans, null and integers within +-(2**53 - 1). Floats are refused, so no number formatting is needed.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Hashable, Iterable
from typing import Any, NoReturn, TypeVar

from privml.base.errors import EvidenceError

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 100_000
_MAX_INT = 2**53 - 1
_HEX = re.compile(r"\A(?:[0-9a-f]{2})*\Z")
# Possessive, and an unterminated string matches to its end: linear for any input.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NESTING = {"[": 1, "{": 1, "]": -1, "}": -1}
_BRACKETS = re.compile(r"[\[\]{}]")
_Name = TypeVar("_Name", bound=Hashable)


def loads(data: bytes, *, what: str = "JSON", limit: int = MAX_BYTES, values: int = MAX_VALUES) -> Any:
    """Parse ``data`` in linear time; ``EvidenceError`` if it is ambiguous or exceeds a bound.

    Ambiguous: duplicate keys, floats, NaN, integers beyond +-(2**53 - 1), bad UTF-8, lone surrogates. Bounds:
    ``limit`` bytes, ``values`` JSON values, `MAX_DEPTH` nested arrays and objects; all are checked before anything
    is built.
    """
    if len(data) > limit:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected at most {limit}")

    def no_float(text: str) -> NoReturn:
        raise EvidenceError(f"{what}: number {text[:40]} is not an integer")

    def integer(text: str) -> int:
        if len(text) > 17 or abs(int(text)) > _MAX_INT:
            raise EvidenceError(f"{what}: integer {text[:40]} is out of range")
        return int(text)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            twice = first_repeated(name for name, _ in items)
            raise EvidenceError(f"{what}: key `{str(twice)[:80]}` is given twice")
        return result

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{what}: not UTF-8 at byte {error.start}") from error
    check_structure(text, what=what, values=values)
    try:
        value = json.loads(
            text, object_pairs_hook=pairs, parse_float=no_float, parse_int=integer, parse_constant=no_float
        )
    except json.JSONDecodeError as error:
        raise EvidenceError(f"{what}: {error.msg} at line {error.lineno} column {error.colno}") from error
    if "\\u" in text:
        # A lone surrogate is not a character (RFC 8785 section 3.2.2.2) and could not be encoded again.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise EvidenceError(f"{what}: a string has a lone surrogate") from error
    return value


def check_structure(text: str, *, what: str, values: int = MAX_VALUES, depth: int = MAX_DEPTH) -> None:
    """Refuse JSON text with more values or deeper nesting than allowed, without parsing it.

    Values are counted by their commas and brackets, which are never fewer than the values themselves less one.
    Malformed text is not an error here; a parser that stops at the first error never goes deeper than this found.
    """
    structure = _STRING.sub("", text)
    found = 1 + structure.count(",") + structure.count("[") + structure.count("{")
    if found > values:
        raise EvidenceError(f"{what}: about {found} values, expected at most {values}")
    level = 0
    for bracket in _BRACKETS.findall(structure):
        level += _NESTING[bracket]
        if level > depth:
            raise EvidenceError(f"{what}: nested deeper than {depth} levels")


def first_repeated(names: Iterable[_Name]) -> _Name | None:
    """The first of ``names`` that came before, None if all differ; linear in their number."""
    seen: set[_Name] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of ``value`` (see the module's restriction); ``ValueError`` for anything outside it."""
    _check_canonical(value)
    return _encoded(value).encode("utf-8")


def _check_canonical(value: Any) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise ValueError(f"integer {value} is out of range for canonical JSON")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_canonical(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise ValueError(f"canonical JSON key {key!r} is not an ASCII string")
            if type(item) is not str:  # most are, and a call for each costs as much as the encoding
                _check_canonical(item)
    else:
        raise ValueError(f"{type(value).__name__} has no canonical JSON form")


def pretty(value: Any) -> bytes:
    """Readable JSON with stable formatting: sorted keys, two spaces, a final newline."""
    _check_canonical(value)
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2) + "\n").encode("utf-8")


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: object, *, what: str = "base64", limit: int = MAX_BYTES) -> bytes:
    """Decode standard, padded, canonical base64; ``EvidenceError`` for any other encoding of the same bytes."""
    if not isinstance(text, str):
        raise EvidenceError(f"{what}: {type(text).__name__}, expected a base64 string")
    if len(text) > limit * 4 // 3 + 4:
        raise EvidenceError(f"{what}: {len(text)} characters, expected at most {limit} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"{what}: not base64 ({error})") from error
    if len(data) > limit:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected at most {limit}")
    if b64(data) != text:
        raise EvidenceError(f"{what}: not the canonical base64 of its bytes")
    return data


def unhex(text: object, length: int | None = None, *, what: str = "hex") -> bytes:
    """Decode lower-case hex of exactly ``length`` bytes (any length when None); ``EvidenceError`` otherwise."""
    if not isinstance(text, str) or not _HEX.match(text):
        raise EvidenceError(f"{what}: expected lower-case hex digits")
    data = bytes.fromhex(text)
    if length is not None and len(data) != length:
        raise EvidenceError(f"{what}: {len(data)} bytes, expected {length}")
    return data


class Fields:
    """Strict access to one decoded JSON object, with the path of each field in every message.

    Read each field once, then call ``end()``, which refuses unknown fields.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise EvidenceError(f"{path}: {_name(value)}, expected an object")
        self._left: dict[str, Any] = dict(value)
        self.path = path

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise EvidenceError(f"{self.path}.{key}: missing")
        return self._left.pop(key)

    def has(self, key: str) -> bool:
        """True if ``key`` exists and has not been read yet."""
        return key in self._left

    def names(self) -> tuple[str, ...]:
        """The keys that have not been read yet."""
        return tuple(self._left)

    def text(self, key: str, *, one_of: tuple[str, ...] | None = None, limit: int = 4096) -> str:
        """A string of at most ``limit`` characters, and one of ``one_of`` if given."""
        value = self._take(key)
        if not isinstance(value, str):
            raise EvidenceError(f"{self.path}.{key}: {_name(value)}, expected a string")
        if len(value) > limit:
            raise EvidenceError(f"{self.path}.{key}: {len(value)} characters, expected at most {limit}")
        if one_of is not None and value not in one_of:
            raise EvidenceError(f"{self.path}.{key}: got `{value[:80]}`, expected one of {', '.join(one_of)}")
        return value

    def text_or_null(self, key: str, *, limit: int = 4096) -> str | None:
        """A string as in ``text``, or None for null; a missing field is an error."""
        if self._left.get(key, "") is None:
            self.null(key)
            return None
        return self.text(key, limit=limit)

    def integer(self, key: str, *, low: int = 0, high: int = _MAX_INT) -> int:
        """An integer within [low, high]."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise EvidenceError(f"{self.path}.{key}: {_name(value)}, expected an integer")
        if not low <= value <= high:
            raise EvidenceError(f"{self.path}.{key}: got {value}, expected {low} to {high}")
        return value

    def boolean(self, key: str) -> bool:
        """true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise EvidenceError(f"{self.path}.{key}: {_name(value)}, expected true or false")
        return value

    def hexadecimal(self, key: str, length: int | None = None) -> bytes:
        """Lower-case hex of exactly ``length`` bytes."""
        return unhex(self._take(key), length, what=f"{self.path}.{key}")

    def base64(self, key: str, *, limit: int = MAX_BYTES) -> bytes:
        """Canonical base64."""
        return unb64(self._take(key), what=f"{self.path}.{key}", limit=limit)

    def array(self, key: str, *, limit: int = 4096) -> list[Any]:
        """An array of at most ``limit`` items."""
        value = self._take(key)
        if not isinstance(value, list):
            raise EvidenceError(f"{self.path}.{key}: {_name(value)}, expected an array")
        if len(value) > limit:
            raise EvidenceError(f"{self.path}.{key}: {len(value)} items, expected at most {limit}")
        return value

    def fields(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self._take(key), f"{self.path}.{key}")

    def fields_or_null(self, key: str) -> Fields | None:
        """A nested object, or None for null; a missing field is an error."""
        value = self._take(key)
        return None if value is None else Fields(value, f"{self.path}.{key}")

    def null(self, key: str) -> None:
        """A field reserved for later versions: must be null."""
        if self._take(key) is not None:
            raise EvidenceError(f"{self.path}.{key}: expected null, the only value in this version")

    def empty(self, key: str) -> None:
        """A list reserved for later versions: must be empty."""
        if self.array(key):
            raise EvidenceError(f"{self.path}.{key}: expected an empty list, the only value in this version")

    def take(self, key: str) -> Any:
        """The raw value, for a union that the caller resolves."""
        return self._take(key)

    def rest(self) -> dict[str, Any]:
        """All fields not read yet (for an object whose keys are data)."""
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        """Refuse unknown fields."""
        if self._left:
            raise EvidenceError(f"{self.path}.{min(self._left)}: unknown field")


def _name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
