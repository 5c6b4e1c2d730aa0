"""The value of a QEMU option: ``key=value`` lists with doubled commas, ``+feature`` and flags, or a JSON object."""

from __future__ import annotations

from privml.base import strictjson
from privml.base.errors import EvidenceError

MAX_WORD = 8192
"""The longest word of a command line that is read, in characters."""


def option(value: str) -> str:
    """``value`` inside an option: a comma is doubled, so that a path with one adds no key."""
    return value.replace(",", ",,")


def pairs(text: str, implied: str) -> list[tuple[str, str]]:
    """The keys and values of an option; ``implied`` is the key of a first value without one.

    ``ValueError`` for malformed JSON.
    """
    if text.startswith("{"):
        try:
            value = strictjson.loads(text.encode(), what="JSON", limit=MAX_WORD)
        except EvidenceError as error:
            raise ValueError(error.message) from error
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        return [(key, _plain(one)) for key, one in value.items()]
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    found = []
    for number, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (implied, part) if number == 0 and implied else (part, "on")
        found.append((key, value))
    return found


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict | list):
        return strictjson.canonical(value).decode()
    return str(value)
