"""JSON Schemas of recipes and platforms, for editors, generated from the models (``image.schemas`` writes the files).

A recipe that extends another gives only what differs, so the schema has two forms, chosen by the field ``extends``;
sections of a variant need none of their fields, items of lists still need theirs. A section that may be left out is
never null in a whole recipe; null in a variant takes the other recipe's away. What only the models can say
(devices given twice, firmware by variant) is left to `lint`.
"""

from __future__ import annotations

import copy
from typing import Any

from privml.base import strictjson
from privml.recipe.fields import facts
from privml.recipe.models import Content
from privml.recipe.platform import PlatformFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECIPE_FILE = "recipe.schema.json"
PLATFORM_FILE = "platform.schema.json"
_NULL = {"type": "null"}
_SECTIONS = ("Base", "Kernel", "Firmware", "Model", "Inference", "Agent")


def recipe_schema() -> dict[str, Any]:
    """The schema of ``recipes/NAME.yaml``."""
    whole = Content.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = whole.pop("$defs")
    optional = {name for name, schema in whole["properties"].items() if _NULL in schema.get("anyOf", ())}
    for name in optional:
        whole["properties"][name] = _without_null(whole["properties"][name])
    part = copy.deepcopy(whole)
    part.pop("required")
    part["properties"] = {"extends": {"description": facts()["extends"].meaning, "type": "string"}} | {
        name: _or_null(_in_variant(schema)) if name in optional else _in_variant(schema)
        for name, schema in part["properties"].items()
    }
    part["required"] = ["extends"]
    part["description"] = "A recipe that is laid over another."
    for name in _SECTIONS:
        section = copy.deepcopy(definitions[name])
        section.pop("required")
        section["properties"] = {key: _in_variant(schema) for key, schema in section["properties"].items()}
        definitions[f"{name}InVariant"] = section
    return {
        "$schema": DIALECT,
        "title": "privml-build recipe",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/Variant"},
        "else": {"$ref": "#/$defs/Recipe"},
        "$defs": definitions | {"Recipe": whole, "Variant": part},
    }


def platform_schema() -> dict[str, Any]:
    """The schema of ``recipes/platforms/NAME.yaml``."""
    return {"$schema": DIALECT, **PlatformFile.model_json_schema(by_alias=True), "title": "privml-build platform"}


def files() -> dict[str, bytes]:
    """Every schema's file name and bytes."""
    return {
        RECIPE_FILE: strictjson.pretty(plain(recipe_schema())),
        PLATFORM_FILE: strictjson.pretty(plain(platform_schema())),
    }


def plain(schema: Any, *, top: bool = True) -> Any:
    """Without the titles that pydantic makes of field names: they say nothing that the names do not."""
    if isinstance(schema, list):
        return [plain(item, top=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: plain(value, top=False) for key, value in schema.items() if top or not _is_title(key, value)}


def _is_title(key: str, value: object) -> bool:
    return key == "title" and isinstance(value, str)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    reference: dict[str, Any] = next(form for form in schema["anyOf"] if form != _NULL)
    return reference | {key: value for key, value in schema.items() if key not in ("anyOf", "default")}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {"anyOf": [{"$ref": schema["$ref"]}, _NULL], **rest}


def _in_variant(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    if reference.rpartition("/")[2] in _SECTIONS:
        return {**schema, "$ref": f"{reference}InVariant"}
    return schema
