"""The file of roles, which a project keeps: who may sign what in its repository.

TOML. Keys are public key files (PEM or OpenSSH's), relative to the file::

    format = "privml-roles/v1"
    [root]
    threshold = 2
    keys = ["keys/ann.pem", "keys/ben.pem", "keys/carl.pem"]
    [online]
    threshold = 1
    keys = ["keys/online.pem"]
    [images.demo-cpu]
    threshold = 2
    keys = ["keys/ann.pem", "keys/ben.pem", "keys/dora.pem"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start
from privml.base.strictjson import Fields
from privml.publish.signer import load_public
from privml.statement.keys import MAX_KEYS, Role
from privml.statement.metadata import MAX_IMAGES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from privml.statement.names import is_name

FORMAT = "privml-roles/v1"
MAX_ROLES = 1 << 20


@dataclass(frozen=True)
class Roles:
    """The top-level roles of a root, and the publishers of each image."""

    top: Mapping[str, Role]
    images: Mapping[str, Role]


def read(path: Path) -> Roles:
    """Read a file of roles; ``UsageError`` if it is not one, or names a key that is none."""
    try:
        data = read_start(path, MAX_ROLES)
        value = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    try:
        return _roles(Fields(value, path.name), path.parent)
    except EvidenceError as error:
        raise UsageError(error.message, hint="docs/PUBLISHING.md has an example") from error


def _roles(fields: Fields, folder: Path) -> Roles:
    fields.text("format", one_of=(FORMAT,))
    root, online = _role(fields.fields("root"), folder), _role(fields.fields("online"), folder)
    table = fields.fields("images") if fields.has("images") else Fields({}, fields.path)
    images: dict[str, Role] = {}
    for name in table.names():
        if not is_name(name) or len(images) >= MAX_IMAGES:
            raise EvidenceError(f"{table.path}.{name[:80]}: not the name of an image that can be published")
        images[name] = _role(table.fields(name), folder)
    fields.end()
    # The publishers' keys come from those who hold the root, so that a root is changed only to replace its own keys.
    return Roles({ROOT: root, TARGETS: root, SNAPSHOT: online, TIMESTAMP: online}, images)


def _role(fields: Fields, folder: Path) -> Role:
    items = fields.array("keys", limit=MAX_KEYS)
    names = Fields({str(number): item for number, item in enumerate(items)}, f"{fields.path}.keys")
    keys = tuple(load_public(folder / names.text(str(number))) for number in range(len(items)))
    threshold = fields.integer("threshold", low=1, high=MAX_KEYS)
    fields.end()
    try:
        return Role(keys, threshold)
    except EvidenceError as error:
        raise EvidenceError(f"{fields.path}: {error.message}") from error
