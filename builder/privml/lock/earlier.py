"""Read locks of format v1, so that `lock` can convert them to v2 without resolving packages.

v1 supported one distribution and one TEE, had a single word for the origin of a .deb, and named a model's wheel but
not its files; they are read from the wheel when the lock is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.base.errors import InputsError
from privml.lock.lockfile import format_of, parse, read_lock, read_tools_lock
from privml.lock.models import Lock, ToolsLock

_BASE = {"distribution": "debian", "release": "forky"}
_TEE = "tdx"


def previous_lock(path: Path) -> Lock | None:
    """The lock in ``path``, in the current or previous format; None if there is none."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if format_of(data) != "privml-lock/v1":
        return read_lock(path)
    return parse(strictjson.canonical(_lock(strictjson.loads(data, what=str(path)), str(path))), Lock, str(path))


def previous_tools_lock(path: Path) -> ToolsLock | None:
    """The tools lock in ``path``, in the current or previous format; None if there is none."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if format_of(data) != "privml-tools-lock/v1":
        return read_tools_lock(path)
    old = strictjson.loads(data, what=str(path))
    new = {**old, "format": "privml-tools-lock/v2", "base": _BASE, "packages": _packages(old, "packages", str(path))}
    return parse(strictjson.canonical(new), ToolsLock, str(path))


def _lock(old: dict[str, Any], what: str) -> dict[str, Any]:
    new = {name: value for name, value in old.items() if name not in ("firmware_requested", "wheels")}
    requested = old.get("firmware_requested")
    wheels = old.get("wheels")
    if not isinstance(requested, list) or len(requested) != 1 or not isinstance(wheels, list):
        raise InputsError(f"{what}: firmware_requested, wheels: malformed for a privml-lock/v1")
    return {
        **new,
        "format": "privml-lock/v2",
        "base": _BASE,
        "packages": _packages(old, "packages", what),
        "firmware": {_TEE: {"requested": requested[0], "packages": _packages(old, "firmware", what)}},
        "models": [],
        "python": [{name: value for name, value in wheel.items() if name != "origin"} for wheel in wheels],
        "blobs": [],
    }


def _packages(old: dict[str, Any], field: str, what: str) -> list[dict[str, Any]]:
    made = []
    for number, package in enumerate(old.get(field, ())):
        words = str(package.get("origin", "")).split("/", 3)
        if len(words) != 4:
            raise InputsError(f"{what}: {field}[{number}].origin: got `{package.get('origin')}`")
        archive, suite, component, path = words
        rest = {name: value for name, value in package.items() if name != "origin"}
        made.append({**rest, "archive": archive, "suite": suite, "component": component, "path": path})
    return made
