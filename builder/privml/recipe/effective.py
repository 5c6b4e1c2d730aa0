"""A recipe's effective content, which is after ``extends``: its digest, and its fields as comparable text.

The text has the fields' defaults, and their names as in messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from privml.base.sizes import size_text
from privml.base.strictjson import canonical
from privml.engines.registry import ENGINES
from privml.events.boots import DIRECT
from privml.recipe.agent import Agent
from privml.recipe.models import Content
from privml.recipe.section import MEMORY_UNITS

NONE = "none"
"""What is shown for a field that has no value."""
_SIZES = ("memory", "scratch")
"""Fields that hold bytes and are written as 64MiB."""


def effective_of(content: Content) -> dict[str, Any]:
    """The effective content, without unused fields that came to schema 2 later: recipes without them keep their
    digests.
    """
    effective = content.model_dump(mode="json", by_alias=True)
    kernel = {key: value for key, value in effective["kernel"].items() if value or key not in ("modules", "options")}
    for model in (effective["inference"] or {"models": []})["models"]:
        for name in [name for name in ("chat_template", "signature", "encrypt") if model[name] is None]:
            del model[name]
    if effective["gpu"] is not None:
        _without_unused_fabric(effective["gpu"])
    services = {
        name: {key: value for key, value in service.items() if value is not None or key != "scratch"}
        for name, service in effective["services"].items()
    }
    added = Agent.late()
    agent = {key: value for key, value in effective["agent"].items() if key not in added or value != added[key]}
    late = (
        "archives",
        "data",
        "exceptions",
        "files",
        "gpu",
        "keys",
        "network",
        "packages",
        "programs",
        "python",
        "root",
        "sysctl",
    )
    found = {key: value for key, value in effective.items() if value or key not in late}
    if found["boot"] == DIRECT:
        del found["boot"]
    return found | {"agent": agent, "kernel": kernel, "services": services}


def _without_unused_fabric(gpu: dict[str, Any]) -> None:
    if not gpu["ppcie"]:
        del gpu["ppcie"]
    if gpu["driver"]["fabric"] is None:
        del gpu["driver"]["fabric"]


def digest_of(effective: Mapping[str, Any]) -> str:
    """The digest of a recipe from its ``effective`` content and files."""
    return hashlib.sha256(canonical(dict(effective))).hexdigest()


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
