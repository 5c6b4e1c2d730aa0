"""OpenAPI documents of what a guest takes from callers, one for each engine, made from the engines' records.

They describe requests exactly. Answers are the engine's own, in OpenAI's form, so only their media types are said.
"""

from __future__ import annotations

from typing import Any, assert_never

import privml
from privml.engines.engine import Engine
from privml.engines.fields import Array, Boolean, Field, Integer, Kind, Number, Numbers, Object, Schema, Text
from privml.engines.registry import ENGINES
from privml.recipe import schema

_ERROR = {"$ref": "#/components/schemas/Error"}
_REFUSALS = {
    "400": "A field that is not listed, or a value that does not match. The message names field and bound.",
    "401": "The local proxy was started with `--token`, and the request has not its token; or the guest takes only "
    "callers with a token of its issuer.",
    "403": "The local proxy does not accept the guest. `refusals` has every reason.",
    "408": "The body did not arrive in time.",
    "413": "The body or a field is larger than allowed.",
    "415": "The local proxy takes only `application/json`.",
    "421": "The local proxy is asked under another name than this machine's.",
    "422": "The engine exited while it answered the same request, so the guest does not send it again.",
    "429": "The guest answers as many requests as it can. `Retry-After` says when to ask again.",
    "431": "The head of the request is larger than allowed.",
    "502": "The engine, or the guest, did not answer to the end.",
    "503": "Not ready, busy, or not verified yet. `Retry-After` says when to ask again.",
}


def file_name(engine: Engine) -> str:
    """The name of the engine's document."""
    return f"{engine.name}.openapi.json"


def files() -> dict[str, dict[str, Any]]:
    """File name and content of every document."""
    return {file_name(engine): document(engine) for engine in ENGINES.values()}


def document(engine: Engine) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a guest with this engine."""
    requests = engine.requests
    paths: dict[str, Any] = {path: {"get": _operation("get", path)} for path in sorted(requests.readable)}
    for path, fields in requests.fields.items():
        body = object_schema(Object(fields))
        operation = _operation("post", path)
        operation["requestBody"] = {
            "description": f"At most {requests.body} bytes.",
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
        operation["responses"]["200"]["content"]["text/event-stream"] = {}
        paths.setdefault(path, {})["post"] = operation
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": schema.DIALECT,
        "info": {
            "title": f"A guest with {engine.name}, behind `privml-build proxy`",
            "description": "OpenAI's paths and fields that the guest passes to its engine, with their bounds. An "
            "integer is written without fraction or exponent: 20, not 20.0.",
            "license": {"name": "MIT", "identifier": "MIT"},
            "version": privml.__version__,
        },
        "servers": [{"url": "http://127.0.0.1:8000", "description": "The local proxy at its default address."}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The token of `proxy --token`."}
            },
            "schemas": {"Error": _error()},
        },
    }


def _operation(method: str, path: str) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in path.removeprefix("/v1/").replace("/", "_").split("_"))
    failed = {
        status: {"description": words, "content": {"application/json": {"schema": _ERROR}}}
        for status, words in _REFUSALS.items()
    }
    success = {"description": "The engine's answer.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"operationId": f"{method}{name}", "responses": {"200": success, **failed}}


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    fields = {"message": text, "type": text, "code": text}
    return {
        "type": "object",
        "properties": {"error": {"type": "object", "properties": fields, "required": list(fields)}},
        "required": ["error"],
    }


def object_schema(kind: Object) -> dict[str, Any]:
    """The schema of an object with only these fields."""
    return {
        "type": "object",
        "properties": {field.name: field_schema(field) for field in kind.fields},
        "required": [field.name for field in kind.fields if field.required],
        "additionalProperties": False,
    }


def field_schema(field: Field) -> dict[str, Any]:
    """The schema of a field's value. Bounds of its whole content are in the description."""
    kinds = [_kind_schema(kind) for kind in field.kinds]
    if field.nullable or not kinds:
        kinds.append({"type": "null"})
    made = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    bounds = [f"{field.size} bytes of text"] if field.size is not None else []
    bounds += [f"{field.nodes} values"] if field.nodes is not None else []
    return {"description": f"At most {' and '.join(bounds)} in all.", **made} if bounds else made


def _kind_schema(kind: Kind) -> dict[str, Any]:
    match kind:
        case Boolean():
            return {"type": "boolean"}
        case Text():
            made: dict[str, Any] = {"type": "string", "maxLength": kind.limit}
            if kind.words:
                made = {"enum": list(kind.words)}
            if kind.depth is not None:
                made["description"] = f"JSON of at most {kind.depth} levels, if it is JSON."
            return made
        case Integer():
            return {"type": "integer", "minimum": kind.low, "maximum": kind.high}
        case Number():
            return {"type": "number", "minimum": kind.low, "maximum": kind.high}
        case Array():
            return {
                "type": "array",
                "items": _kind_schema(kind.of),
                "minItems": kind.least,
                "maxItems": kind.limit,
            }
        case Object():
            return object_schema(kind)
        case Numbers():
            return {
                "type": "object",
                "propertyNames": {
                    "description": f"At most {kind.high}.",
                    "pattern": f"^[0-9]{{1,{len(str(kind.high))}}}$",
                },
                "additionalProperties": _kind_schema(kind.of),
                "maxProperties": kind.limit,
            }
        case Schema():
            refused = ", ".join(f"`{word}`" for word in kind.refused)
            bounds = (
                f"A JSON Schema of at most {kind.depth} levels, {kind.keys} keys of an object, {kind.items} items of "
                f"an array and {kind.alternatives} alternatives; without {refused}."
            )
            return {"description": bounds, "anyOf": [{"type": "object"}, {"type": "boolean"}]}
    assert_never(kind)
