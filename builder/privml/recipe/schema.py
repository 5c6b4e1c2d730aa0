"""JSON Schemas of recipes and platforms, for editors, generated from the models (``image.schemas`` writes the files).

A recipe that extends another has only the differences, so the schema has two forms, selected by the field
``extends``. Sections of a variant require none of their fields; items of lists still require theirs. An optional
section is never null in a complete recipe; in a variant, null removes the parent's section. Constraints that only the
models can check (duplicate devices, firmware by variant) are left to `lint`.
"""

from __future__ import annotations

import copy
from typing import Any

from privml.base import strictjson
from privml.recipe.fields import facts
from privml.recipe.gceplatform import KIND, GcePlatformFile
from privml.recipe.models import Content
from privml.recipe.platform import PlatformFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECIPE_FILE = "recipe.schema.json"
PLATFORM_FILE = "platform.schema.json"
_NULL = {"type": "null"}
_SECTIONS = ("Base", "Kernel", "FirmwareOf", "Engine", "Inference", "Agent", "Keys")
_LISTED = ("Model", "AddedFile", "AddedArchive")


def recipe_schema() -> dict[str, Any]:
    """The schema of ``recipes/NAME.yaml``."""
    whole = Content.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = whole.pop("$defs")
    whole["properties"] = {key: _names_matched(field) for key, field in whole["properties"].items()}
    part = _variant(whole)
    part["properties"] = {"extends": {"description": facts()["extends"].meaning, "type": "string"}} | part[
        "properties"
    ]
    part["required"] = ["extends"]
    part["description"] = "A recipe that extends another."
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
    """The schema of ``recipes/platforms/NAME.yaml``: of a QEMU, or of Google Compute Engine."""
    qemu, cloud = (model.model_json_schema(by_alias=True) for model in (PlatformFile, GcePlatformFile))
    kind = {"properties": {"kind": {"const": KIND}}, "required": ["kind"]}
    return {
        "$schema": DIALECT,
        "title": "privml-build platform",
        "type": "object",
        "if": {"properties": {"vmm": kind}, "required": ["vmm"]},
        "then": {"$ref": "#/$defs/GcePlatform"},
        "else": {"$ref": "#/$defs/Platform"},
        "$defs": qemu.pop("$defs") | cloud.pop("$defs") | {"Platform": qemu, "GcePlatform": cloud},
    }


def files() -> dict[str, bytes]:
    """File name and content of every schema."""
    return {
        RECIPE_FILE: strictjson.pretty(plain(recipe_schema())),
        PLATFORM_FILE: strictjson.pretty(plain(platform_schema())),
    }


def plain(schema: Any, *, top: bool = True) -> Any:
    """Remove the titles that pydantic derives from field names, which add no information."""
    if isinstance(schema, list):
        return [plain(item, top=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: plain(value, top=False) for key, value in schema.items() if top or not _is_title(key, value)}


def _is_title(key: str, value: object) -> bool:
    return key == "title" and isinstance(value, str)


def _variant(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a variant: any of its fields, and null for an optional one."""
    made = copy.deepcopy(section)
    made.pop("required", None)
    made["properties"] = {
        key: _or_null(_in_variant(_without_null(field))) if _has_null(field) else _in_variant(field)
        for key, field in made["properties"].items()
    }
    return made


def _names_matched(field: dict[str, Any]) -> dict[str, Any]:
    """A mapping whose names must match its pattern; pydantic lets the others pass."""
    if "patternProperties" not in field:
        return field
    ((pattern, inner),) = field["patternProperties"].items()
    made = {key: value for key, value in field.items() if key != "patternProperties"}
    return made | {
        "propertyNames": {**field.get("propertyNames", {}), "pattern": pattern},
        "additionalProperties": inner,
    }


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
