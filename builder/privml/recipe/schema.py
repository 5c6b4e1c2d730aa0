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
_SECTIONS = ("Base", "Kernel", "FirmwareOf", "Engine", "Inference", "Agent")
_LISTED = ("Model",)


def recipe_schema() -> dict[str, Any]:
    """The schema of ``recipes/NAME.yaml``."""
    whole = Content.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = whole.pop("$defs")
    part = _variant(whole)
    part["properties"] = {"extends": {"description": facts()["extends"].meaning, "type": "string"}} | part[
        "properties"
    ]
    part["required"] = ["extends"]
    part["description"] = "A recipe that is laid over another."
    for name in _SECTIONS:
        definitions[f"{name}InVariant"] = _variant(definitions[name])
    for section in (whole, *(definitions[name] for name in (*_SECTIONS, *_LISTED))):
        section["properties"] = {key: _without_null(field) for key, field in section["properties"].items()}
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


def _variant(section: dict[str, Any]) -> dict[str, Any]:
    """A section as a variant may give it: any of its fields, and null for one that can be left out."""
    made = copy.deepcopy(section)
    made.pop("required", None)
    made["properties"] = {
        key: _or_null(_in_variant(_without_null(field))) if _has_null(field) else _in_variant(field)
        for key, field in made["properties"].items()
    }
    return made


def _has_null(field: dict[str, Any]) -> bool:
    return _NULL in field.get("anyOf", ())


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    if not _has_null(field):
        return field
    form: dict[str, Any] = next(form for form in field["anyOf"] if form != _NULL)
    return form | {key: value for key, value in field.items() if key not in ("anyOf", "default")}


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in field.items() if key in ("description", "examples", "x-moves", "title")}
    return {"anyOf": [{key: value for key, value in field.items() if key not in about}, _NULL], **about}


def _in_variant(field: dict[str, Any]) -> dict[str, Any]:
    inner = field.get("additionalProperties")
    if isinstance(inner, dict):
        return {**field, "additionalProperties": _in_variant(inner)}
    reference = field.get("$ref", "")
    return {**field, "$ref": f"{reference}InVariant"} if reference.rpartition("/")[2] in _SECTIONS else field
