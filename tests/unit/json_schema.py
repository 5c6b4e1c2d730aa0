"""A validator of the part of JSON Schema 2020-12 that our schemas use."""

from __future__ import annotations

import re
from typing import Any

# The keywords that our schemas use; `accepts` knows these and refuses to guess at others.
SILENT = {"$schema", "$defs", "title", "description", "examples", "default", "x-moves", "x-key", "contentEncoding"}


def accepts(rule: dict[str, Any], value: Any, whole: dict[str, Any]) -> bool:
    """A validator of exactly the part of JSON Schema 2020-12 that is used here."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}

    def keyword(name: str, wanted: Any) -> bool:
        match name:
            case "type" if wanted == "integer":
                return isinstance(value, int) and not isinstance(value, bool)
            case "type" if wanted == "number":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "type":
                return isinstance(value, kinds[wanted])
            case "$ref":
                return accepts(whole["$defs"][wanted.rpartition("/")[2]], value, whole)
            case "if":
                return accepts(rule["then" if accepts(wanted, value, whole) else "else"], value, whole)
            case "then" | "else":
                return True
            case "anyOf":
                return any(accepts(inner, value, whole) for inner in wanted)
            case "oneOf":
                return sum(accepts(inner, value, whole) for inner in wanted) == 1
            case "not":
                return not accepts(wanted, value, whole)
            case "const":
                return type(value) is type(wanted) and value == wanted
            case "enum":
                return value in wanted
            case "properties":
                return all(accepts(inner, value[key], whole) for key, inner in wanted.items() if key in value)
            case "patternProperties":
                pairs = [
                    (inner, value[key])
                    for pattern, inner in wanted.items()
                    for key in value
                    if re.search(pattern, key)
                ]
                return all(accepts(inner, item, whole) for inner, item in pairs)
            case "additionalProperties" if wanted is False:
                return set(value) <= set(rule["properties"])
            case "additionalProperties" | "propertyNames":
                items = value if name == "propertyNames" else value.values()
                return all(accepts(wanted, item, whole) for item in items)
            case "required":
                return set(wanted) <= set(value)
            case "items":
                return all(accepts(wanted, item, whole) for item in value)
            case "minItems" | "minProperties" | "minLength":
                return len(value) >= wanted
            case "maxItems" | "maxProperties" | "maxLength":
                return len(value) <= wanted
            case "uniqueItems":
                return all(item not in value[:number] for number, item in enumerate(value))
            case "minimum":
                return bool(value >= wanted)
            case "maximum":
                return bool(value <= wanted)
            case "pattern":
                return re.search(wanted, value) is not None
        raise AssertionError(f"the schema uses {name}, which this test does not know")

    first = [("type", rule["type"])] if "type" in rule else []
    rest = [(name, wanted) for name, wanted in rule.items() if name not in SILENT | {"type"}]
    return all(keyword(name, wanted) for name, wanted in [*first, *rest])
