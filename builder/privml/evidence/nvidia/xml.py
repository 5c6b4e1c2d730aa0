"""A strict XML reader and canonical XML, for signed reference values. Standard library only.

Only elements, attributes, namespaces and text are accepted. A document type, an entity, a comment, a processing
instruction, an XML declaration or a CDATA section is refused, so nothing is ever fetched or expanded. Canonical XML
1.1 (W3C) of such a document, and of a subtree with the namespaces in scope, is short enough to be written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from privml.base.errors import EvidenceError

MAX_XML = 4 * 1024 * 1024
MAX_DEPTH = 16
MAX_NODES = 10_000
MAX_NAMESPACES = 32
_END = re.compile(rb"\n{0,2}")


@dataclass(frozen=True)
class Element:
    """An element with its name as written (``prefix:local``), and its namespace declarations by prefix."""

    name: str
    scope: Mapping[str, str]
    declared: Mapping[str, str]
    attributes: Mapping[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """``{namespace}local``."""
        return _expanded(self.name, self.scope, default=self.scope.get("", ""))

    @property
    def values(self) -> dict[str, str]:
        """Attributes by ``{namespace}local``, or by their name if they have no prefix."""
        return {_expanded(name, self.scope): value for name, value in self.attributes.items()}

    @property
    def elements(self) -> list[Element]:
        """The child elements."""
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        """All text directly inside."""
        return "".join(child for child in self.children if isinstance(child, str))

    def walk(self) -> Iterator[Element]:
        """This element and all below it."""
        yield self
        for child in self.elements:
            yield from child.walk()


def _expanded(name: str, scope: Mapping[str, str], default: str = "") -> str:
    prefix, colon, local = name.rpartition(":")
    if not colon:
        return f"{{{default}}}{local}" if default else local
    if prefix not in scope:
        raise EvidenceError(f"XML: the prefix of `{name[:80]}` is not declared")
    return f"{{{scope[prefix]}}}{local}"


def parse(data: bytes) -> Element:
    """Read a document; ``EvidenceError`` for anything but elements, attributes, namespaces and text."""
    if len(data) > MAX_XML:
        raise EvidenceError(f"XML: {len(data)} bytes, expected at most {MAX_XML}")
    last = data.rfind(b">") + 1
    if not data.startswith(b"<") or not _END.fullmatch(data, last):
        raise EvidenceError("XML: extra bytes before or after the root element")
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    for handler, what in (
        ("StartDoctypeDeclHandler", "a document type"),
        ("EntityDeclHandler", "an entity"),
        ("XmlDeclHandler", "an XML declaration"),
        ("CommentHandler", "a comment"),
        ("ProcessingInstructionHandler", "a processing instruction"),
        ("StartCdataSectionHandler", "a CDATA section"),
    ):
        setattr(parser, handler, _refuser(what))
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise EvidenceError(f"XML: {error}") from error
    assert reader.root is not None  # expat refuses a document without an element
    return reader.root


def _refuser(what: str) -> object:
    def refuse(*_: object) -> NoReturn:
        raise EvidenceError(f"XML: {what}, expected none")

    return refuse


class _Reader:
    """Builds the tree from expat's calls."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self.open: list[Element] = []
        self.nodes = 0

    def start(self, name: str, pairs: list[str]) -> None:
        self._count(1 + len(pairs) // 2)
        if len(self.open) >= MAX_DEPTH:
            raise EvidenceError(f"XML: nested deeper than {MAX_DEPTH} levels")
        declared, attributes = {}, {}
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            prefix, colon, local = key.partition(":")
            if key == "xmlns" or (prefix == "xmlns" and colon):
                if not value or local in ("xml", "xmlns"):
                    raise EvidenceError(f"XML: the declaration {key[:80]}=`{value[:80]}`")
                declared[local] = value
            elif prefix == "xml" and colon:
                raise EvidenceError(f"XML: the attribute {key[:80]}, expected none of `xml:`")
            else:
                attributes[key] = value
        scope = {**(self.open[-1].scope if self.open else {}), **declared}
        if len(scope) > MAX_NAMESPACES:
            raise EvidenceError(f"XML: {len(scope)} namespaces in one place, expected at most {MAX_NAMESPACES}")
        element = Element(name, scope, declared, attributes)
        if len(element.values) != len(attributes):
            raise EvidenceError(f"XML: an attribute of `{name[:80]}` is given twice")
        _ = element.tag
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, _name: str) -> None:
        self.open.pop()

    def characters(self, text: str) -> None:
        self._count(1)
        if self.open:
            self.open[-1].children.append(text)

    def _count(self, more: int) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            raise EvidenceError(f"XML: more than {MAX_NODES} elements, attributes and texts")


def canonical(element: Element, without: Element | None = None) -> bytes:
    """Canonical XML 1.1 of ``element`` with the namespaces in its scope, leaving out the child ``without``."""
    parts: list[str] = []
    _write(element, {}, element.scope, without, parts)
    return "".join(parts).encode()


def _write(
    element: Element,
    rendered: Mapping[str, str],
    declared: Mapping[str, str],
    without: Element | None,
    parts: list[str],
) -> None:
    new = {prefix: uri for prefix, uri in declared.items() if rendered.get(prefix) != uri}
    parts.append(f"<{element.name}")
    for prefix in sorted(new):
        parts.append(f' {f"xmlns:{prefix}" if prefix else "xmlns"}="{_attribute(new[prefix])}"')
    for name, value in sorted(element.attributes.items(), key=lambda item: _order(item[0], element.scope)):
        parts.append(f' {name}="{_attribute(value)}"')
    parts.append(">")
    for child in element.children:
        if isinstance(child, str):
            parts.append(_text(child))
        elif child is not without:
            _write(child, {**rendered, **new}, child.declared, without, parts)
    parts.append(f"</{element.name}>")


def _order(name: str, scope: Mapping[str, str]) -> tuple[str, str]:
    prefix, _, local = name.rpartition(":")
    return (scope[prefix] if prefix else "", local)


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def _attribute(value: str) -> str:
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return escaped.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")
