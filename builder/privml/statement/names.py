"""Names of published images and of their versions: safe as a file name, in an address and in a line of text."""

from __future__ import annotations

import re

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z+_-]|\.(?!\.)){0,62}")
DEMONSTRATION = "demonstration"
"""The folder of a demonstration next to the images of a project."""
DEMONSTRATED = "a demonstration whose keys one person made"
"""What is said of everything that such a root vouches for."""
RESERVED = frozenset({"root", "targets", "snapshot", "timestamp", "tuf", "log", "rebuilders", DEMONSTRATION})
"""Names of roles and folders of the repository, which no image may have."""


def is_name(text: str) -> bool:
    """True for the name of an image that can be published."""
    return _NAME.fullmatch(text) is not None and text not in RESERVED


def is_version(text: str) -> bool:
    """True for a version: letters, digits, ``+``, ``-``, ``_`` and single dots, at most 63."""
    return _VERSION.fullmatch(text) is not None and not text.endswith(".")


def is_published(text: str) -> bool:
    """True for ``NAME@VERSION``."""
    name, at, version = text.partition("@")
    return bool(at) and is_name(name) and is_version(version)


def name_of(fields: Fields, key: str = "name") -> str:
    """Read the name of an image."""
    text = fields.text(key, limit=63)
    if not is_name(text):
        raise EvidenceError(f"{fields.path}.{key}: got `{printable(text)}`, expected an image's name")
    return text


def version_of(fields: Fields, key: str = "version") -> str:
    """Read a version."""
    text = fields.text(key, limit=63)
    if not is_version(text):
        raise EvidenceError(f"{fields.path}.{key}: got `{printable(text)}`, expected a version")
    return text
