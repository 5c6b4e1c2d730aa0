"""The fields of a recipe as comparable text: after ``extends``, with their defaults, named as in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from privml.base.sizes import size_text
from privml.base.strictjson import canonical
from privml.engines.registry import ENGINES
from privml.recipe.models import Agent
from privml.recipe.section import MEMORY_UNITS

NONE = "none"
"""What is shown for a field that has no value."""
_SIZES = ("memory", "scratch")
"""Fields that hold bytes and are written as 64MiB."""


def fields_of(content: Mapping[str, Any]) -> dict[str, str]:
    """The value of every field of a recipe's effective content (``Recipe.effective``), by its name.

    Content that another version wrote may have other fields; each is shown as it is.
    """
    return dict(_leaves(_with_defaults(content), ""))


def _with_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the defaults of agent and engine's options, and devices as a recipe spells them."""
    found = dict(content)
    if isinstance(agent := found.get("agent"), dict):
        found["agent"] = {**Agent.late(), **agent}
    inference = found.get("inference")
    if isinstance(inference, dict) and isinstance(engine := inference.get("engine"), dict):
        record = ENGINES.get(str(engine.get("name")))
        defaults = {name: option.default for name, option in (record.options if record else {}).items()}
        given = engine.get("options") if isinstance(engine.get("options"), dict) else {}
        found["inference"] = {**inference, "engine": {**engine, "options": {**defaults, **(given or {})}}}
    devices = found.get("devices")
    if isinstance(devices, list) and all(isinstance(each, dict) and {*each} == {"kind", "count"} for each in devices):
        found["devices"] = {str(each["kind"]): each["count"] for each in devices}
    return found


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{name}[{number}]")
    else:
        yield name, _text(value, name.rpartition(".")[2])


def _text(value: Any, key: str) -> str:
    """A value as a recipe would have it."""
    if value is None or value == []:
        return NONE
    if isinstance(value, list):
        return f"[{', '.join(_text(item, '') for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and key in _SIZES:
        return size_text(value, MEMORY_UNITS)
    return str(value) if isinstance(value, str | int) else canonical(value).decode()
