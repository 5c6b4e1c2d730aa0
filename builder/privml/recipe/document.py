"""Strict YAML subset with line numbers: no duplicate keys, anchors, merge keys, tags or YAML 1.1 booleans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import AliasEvent, NodeEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from privml.base.errors import RecipeError, printable

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_INTEGER_DIGITS = 15

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"\A-?(?:0|[1-9][0-9]*)\Z")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class Mark:
    """A position in a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Document:
    """A parsed file: its mapping, and the mark of each path (a field is marked at its key).

    If a file extends another, ``under`` has the marks of the parent and ``joint`` the position of the field
    ``extends``.
    """

    value: dict[str, Any]
    marks: dict[Path, Mark]
    under: dict[Path, Mark] = field(default_factory=dict)
    joint: Mark | None = None

    def counterpart(self, path: Path) -> str:
        """The other file's position for ``path``, as the end of a message; empty if there is only one file."""
        if self.joint is None:
            return ""
        if self.marks[nearest(path, self.marks)].file != self.joint.file:
            return f" (extended by {self.joint})"
        below = nearest(path, self.under)
        return f" (overrides {self.under[below]})" if below == path else f" (extends {self.under[below]})"


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses constructs that change the meaning of the visible text."""

    file = ""
    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, NodeEvent):
            mark = Mark(self.file, event.start_mark.line + 1 if event.start_mark else 1)
            if isinstance(event, AliasEvent) or event.anchor is not None:
                raise RecipeError(f"{mark}: recipes cannot have anchors or aliases; write the value out")
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise RecipeError(f"{mark}: recipes cannot have tags, got `{printable(str(tag))}`")
            if self.depth >= MAX_DEPTH:
                raise RecipeError(f"{mark}: nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse(data: bytes, file: str) -> Document:
    """Parse one YAML document with a mapping at the top level; ``RecipeError`` with ``file:line`` otherwise."""
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{file}: {len(data)} bytes, expected at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file}:{line}: not UTF-8") from error
    strange = re.search("[\x85\u2028\u2029]", text)
    if strange:
        # YAML treats these as line breaks and most editors do not, so the visible text would differ from the parsed
        # one.
        line = text.count("\n", 0, strange.start()) + 1
        raise RecipeError(f"{file}:{line}: recipes cannot have the character U+{ord(strange[0]):04X}")
    try:
        loader = _Loader(text)
        loader.file = file
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"{file}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: {' '.join(str(error).split())}") from error
    if not isinstance(node, MappingNode):
        raise RecipeError(f"{file}:1: expected fields, such as `schema: 2`")
    marks: dict[Path, Mark] = {(): Mark(file, node.start_mark.line + 1)}
    value = _value(node, (), file, marks)
    assert isinstance(value, dict)
    return Document(value, marks)


def _value(node: Node, path: Path, file: str, marks: dict[Path, Mark]) -> Any:
    if isinstance(node, MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = Mark(file, key_node.start_mark.line + 1)
            if not isinstance(key_node, ScalarNode):
                raise RecipeError(f"{mark}: expected a plain word as a field name")
            key = key_node.value
            if _has_surrogate(key):
                raise RecipeError(f"{mark}: lone surrogate in a field name")
            if key == "<<":
                raise RecipeError(f"{mark}: recipes cannot have merge keys; write the fields out, or use `extends`")
            here = (*path, key)
            if key in result:
                raise RecipeError(f"{mark}: {spelled(here)}: given twice, first in line {marks[here].line}")
            marks[here] = mark
            result[key] = _value(value_node, here, file, marks)
        return result
    if isinstance(node, SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            marks[(*path, index)] = Mark(file, child.start_mark.line + 1)
            items.append(_value(child, (*path, index), file, marks))
        return items
    assert isinstance(node, ScalarNode)
    return _scalar(node, path, file)


def _scalar(node: ScalarNode, path: Path, file: str) -> str | int | bool | None:
    """Convert true, false, null and decimal integers; all else is text, such as ``on``, ``yes`` and 1.5."""
    text = str(node.value)
    if _has_surrogate(text):
        raise RecipeError(f"{Mark(file, node.start_mark.line + 1)}: {spelled(path)}: lone surrogate")
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        if len(text) > MAX_INTEGER_DIGITS:
            raise RecipeError(f"{Mark(file, node.start_mark.line + 1)}: {spelled(path)}: the number is too large")
        return int(text)
    return text


def is_plain(text: str) -> bool:
    """True if ``text`` without quotes is read back as text."""
    return text not in _WORDS and not _INTEGER.match(text)


def _has_surrogate(text: str) -> bool:
    # YAML escapes can produce a lone surrogate, which cannot be encoded in UTF-8.
    return any("\ud800" <= character <= "\udfff" for character in text)


def nearest(path: Path, marks: Mapping[Path, Mark]) -> Path:
    """``path`` if it is marked, else its nearest marked parent."""
    while path not in marks:
        path = path[:-1]
    return path


def spelled(path: Path) -> str:
    """``("shapes", 1, "memory")`` as ``shapes[1].memory``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return printable(text)


def merged(child: Document, parent: Document, joint: Mark) -> Document:
    """Merge ``child`` over ``parent``: mappings field by field, everything else as a whole.

    A null in the child removes the parent's field; its mark is kept for messages about the missing field. ``joint``
    is the position where the child names its parent.
    """
    marks = dict(parent.marks)

    def lay(over: dict[str, Any], under: dict[str, Any], path: Path) -> dict[str, Any]:
        result = dict(under)
        for key, value in over.items():
            here = (*path, key)
            below = under.get(key)
            if isinstance(value, dict) and isinstance(below, dict):
                result[key] = lay(value, below, here)
                marks[here] = child.marks[here]
                continue
            for old in [old for old in marks if old[: len(here)] == here]:
                del marks[old]
            marks.update({new: mark for new, mark in child.marks.items() if new[: len(here)] == here})
            if value is None and key in under:
                del result[key]
            else:
                result[key] = value
        return result

    value = lay(child.value, parent.value, ())
    marks[()] = child.marks[()]
    return Document(value, marks, parent.marks, joint)
