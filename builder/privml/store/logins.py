"""Logins for registries, from the files that `podman login`, `skopeo login` and `docker login` write.

See containers-auth.json(5). Passwords that only a helper program has are not read. Nothing here shows one.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from privml.base.errors import EvidenceError, HostError
from privml.base.files import read_start
from privml.base.home import user_folder
from privml.base.strictjson import loads

MAX_FILE = 1 << 20


def basic_for(address: str) -> str | None:
    """The ``Authorization`` header for a repository, ``HOST[:PORT]/REPOSITORY``; None if there is no login for it.

    The first file that has one counts, and in it the entry that names most of the address. ``HostError`` for a file
    that is malformed.
    """
    for file in _files():
        auths = _auths(file)
        for key in sorted(auths, key=len, reverse=True):
            plain = key.removeprefix("https://").rstrip("/")
            if plain and (address == plain or address.startswith(f"{plain}/")):
                found = _basic(auths[key], file)
                if found is not None:
                    return found
    return None


def _files() -> Iterator[Path]:
    """Where logins are, in the order of containers-auth.json(5)."""
    if given := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(given)
        return
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    try:
        yield user_folder("XDG_CONFIG_HOME", ".config") / "containers/auth.json"
        yield user_folder("DOCKER_CONFIG", ".docker") / "config.json"
    except HostError:
        return  # nobody without a home has logged in


def _auths(file: Path) -> dict[str, Any]:
    try:
        data = read_start(file, MAX_FILE)
    except OSError:
        return {}
    try:
        whole = loads(data, what="logins", limit=MAX_FILE)
        found = whole.get("auths", {}) if isinstance(whole, dict) else None
    except EvidenceError:
        found = None
    if not isinstance(found, dict):
        raise HostError(f"{file} cannot be read: expected JSON with `auths`", hint="log in again, or remove it")
    return found


def _basic(entry: Any, file: Path) -> str | None:
    """An entry's header; None for one without a password of its own, as helper programs leave them."""
    text = entry.get("auth") if isinstance(entry, dict) else None
    if not text:
        return None
    try:
        good = isinstance(text, str) and b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise HostError(f"{file} has a malformed login", hint="log in again")
    return f"Basic {text}"
