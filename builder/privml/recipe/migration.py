"""Convert recipes of schema 1 to schema 2. The meaning is preserved; comments are lost.

Schema 2 has firmware by TEE, an engine section, and a list of models. `firmware.secure_boot` was removed: it had only
one value, which follows from the firmware package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from privml.recipe.starter import scalar
from privml.recipe.tees import BUILT

OLD = 1
NEW = 2
_WIDTH = 100
_FLOW = re.compile(r"[,\[\]{}#]")


def is_old(own: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> bool:
    """Whether a file has schema 1: it says so, or it extends another and has fields that only schema 1 had."""
    if "schema" in own or parent is None:
        return own.get("schema") == OLD
    firmware, inference = own.get("firmware"), own.get("inference")
    if isinstance(firmware, dict) and ("package" in firmware or "secure_boot" in firmware):
        return True
    return isinstance(inference, dict) and ("model" in inference or isinstance(inference.get("engine"), str))


def rewritten(own: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> str:
    """Convert a file of schema 1 to schema 2; ``parent`` is the content of the file it extends."""
    made = {}
    for name, value in own.items():
        if name == "schema":
            value = NEW
        elif name == "firmware" and isinstance(value, dict):
            value = {BUILT[0]: {key: item for key, item in value.items() if key != "secure_boot"}}
            if not value[BUILT[0]]:
                continue
        elif name == "inference" and isinstance(value, dict):
            value = _inference(value, parent)
        made[name] = value
    return "".join(line + "\n" for name, value in made.items() for line in _lines(name, value, ""))


def _inference(own: Mapping[str, Any], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in own.items():
        if name == "engine" and isinstance(value, str):
            made["engine"] = {"name": value}
        elif name == "model" and isinstance(value, dict):
            # Lists are replaced as a whole, so a partial model must be completed.
            made["models"] = [{**_model_of(parent), **value}]
        else:
            made[name] = value
    return made


def _model_of(parent: Mapping[str, Any] | None) -> Mapping[str, Any]:
    inference = (parent or {}).get("inference")
    if not isinstance(inference, dict):
        return {}
    models = inference.get("models")
    found = models[0] if isinstance(models, list) and models else inference.get("model")
    return found if isinstance(found, dict) else {}


def _lines(name: str, value: Any, indent: str) -> list[str]:
    """A field on one line if it fits, else one line for each of its fields or items."""
    flat = f"{indent}{name}: {value_text(value)}"
    if not isinstance(value, dict | list) or not value or len(flat) <= _WIDTH:
        return [flat]
    lines = [f"{indent}{name}:"]
    if isinstance(value, list):
        return lines + [f"{indent}  - {value_text(item)}" for item in value]
    return lines + [line for key, item in value.items() for line in _lines(key, item, f"{indent}  ")]


def value_text(value: Any, *, inner: bool = False) -> str:
    """A value on one line; ``inner``: within brackets."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {value_text(item, inner=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item, inner=True) for item in value) + "]"
    if value is None:
        return "null"
    plain = scalar(value)
    return f'"{plain}"' if inner and not plain.startswith('"') and _FLOW.search(plain) else plain
