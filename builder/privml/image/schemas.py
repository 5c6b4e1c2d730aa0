"""JSON Schemas of recipes, platforms, locks, manifests and policies, and the OpenAPI documents of the engines.

Schemas of recipes, platforms and locks are generated from their pydantic models. The manifest has a hand-written
decoder, so its schema is written here and a test compares the two. The policy's is generated from its fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from privml.base import strictjson
from privml.base.resource import MAX_GENERATION, MAX_RESOURCE
from privml.events import boots, network, volumes
from privml.events.agent import NAMES
from privml.events.crypt import CIPHER, SECTOR_SIZE
from privml.events.gpus import MAX_GPUS
from privml.events.registers import REGISTERS
from privml.events.variants import VARIANTS
from privml.events.verity import BLOCK_SIZE
from privml.image import openapi
from privml.lock.models import LATE, LATE_OF_DRIVERS, LATE_OF_MODELS, Lock, ToolsLock
from privml.output.manifest import FORMAT
from privml.recipe import manual, schema
from privml.statement.exceptions import MAX_EXCEPTIONS
from privml.verify import policyfile

LOCK_FILE = "lock.schema.json"
TOOLS_LOCK_FILE = "tools-lock.schema.json"
MANIFEST_FILE = "manifest.schema.json"
POLICY_FILE = "policy.schema.json"

_TEXT = {"type": "string", "maxLength": 4096}
_OR_NULL = {"anyOf": [_TEXT, {"type": "null"}]}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 1}
_SIZE = {"type": "integer", "minimum": 0}
_VERITY = {"$ref": "#/$defs/verity"}
_CRYPT = {"anyOf": [{"$ref": "#/$defs/crypt"}, {"type": "null"}]}


def lock_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The schema of a lock in its written form, with every field required but those left out when empty."""
    made = model.model_json_schema(mode="serialization")
    made["required"] = [name for name in made["required"] if name not in LATE]
    for record, late in (("Model", LATE_OF_MODELS), ("Driver", LATE_OF_DRIVERS)):
        if record in made["$defs"]:
            inner = made["$defs"][record]
            inner["required"] = [name for name in inner["required"] if name not in late]
    return {"$schema": schema.DIALECT, **made, "title": title}


def manifest_schema() -> dict[str, Any]:
    """The schema of ``out/NAME/manifest.json``."""
    fields = {
        "format": {"const": FORMAT},
        "name": _TEXT,
        "variant": {"enum": list(VARIANTS)},
        "recipe_sha256": _SHA256,
        "lock_sha256": _SHA256,
        "refreshed": {
            "description": "The image was not built with the committed lock of its recipe.",
            "type": "boolean",
        },
        "source_date_epoch": _SIZE,
        "listen": {"type": "integer", "minimum": 1, "maximum": 65535},
        "boot": {"enum": list(boots.BOOTS)},
        "cmdline": _TEXT,
        "kernel": _TEXT,
        "root": _VERITY,
        "firmware": {
            "description": "By TEE: the firmware artefact and the binary it is derived from.",
            "type": "object",
            "properties": {tee: _object({"file": _TEXT, "derived_from": _SHA256}) for tee in REGISTERS},
            "additionalProperties": False,
            "minProperties": 1,
        },
        "models": _array(
            _object(
                {
                    "name": _TEXT,
                    "volume": _TEXT,
                    "format": _TEXT,
                    "source": {"description": "As the recipe spells it.", **_TEXT},
                    "revision": {"description": "A wheel's version or a hub's commit.", **_OR_NULL},
                    "licence": _OR_NULL,
                    "verity": _VERITY,
                    "crypt": _CRYPT,
                },
                {
                    "signature": {
                        "description": "Who signed the model's files; left out if nobody did.",
                        "oneOf": [
                            _object({"signer": {"const": "key"}, "key_id": _SHA256, "sha256": _SHA256}),
                            _object(
                                {
                                    "signer": {"const": "identity"},
                                    "subject": _TEXT,
                                    "issuer": _TEXT,
                                    "sha256": _SHA256,
                                }
                            ),
                        ],
                    }
                },
            )
        ),
        "engine": {"anyOf": [_object({"name": _TEXT, "version": _TEXT}), {"type": "null"}]},
        "gpus": {
            "anyOf": [
                _object({"architecture": _TEXT, "count": {**_COUNT, "maximum": MAX_GPUS}, "switches": _SIZE}),
                {"type": "null"},
            ]
        },
        "exceptions": {
            "type": "array",
            "items": _object({"kind": _TEXT, "subject": _TEXT, "reason": _TEXT}),
            "maxItems": MAX_EXCEPTIONS,
        },
        "config_sha256": _SHA256,
        "agent_events": _array(
            _object({"name": {"enum": list(NAMES)}, "payload": {"type": "string", "contentEncoding": "base64"}})
        ),
        "purposes": {
            "description": "Number of agent events before a quote for each purpose.",
            "type": "object",
            "additionalProperties": _SIZE,
        },
        "artefacts": {
            "type": "object",
            "additionalProperties": _object({"sha256": _SHA256, "size": _SIZE}),
            "required": ["root.raw", "uki.efi"],
        },
        "platforms": _array({"type": "string"}),
        "shapes": _array(_object({"vcpus": _COUNT, "memory": {"description": "Bytes.", **_COUNT}})),
        "packages": _array(_object({"name": _TEXT, "version": _TEXT, "architecture": _TEXT, "sha256": _SHA256})),
        "origins": {
            "description": "Which recipe line each measured part comes from.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
    }
    # Left out for a guest with one card and DHCP, and without data.
    late = {
        "network": {**_array(_card()), "minItems": 1, "maxItems": network.MAX_CARDS},
        "data": {
            **_array(
                _object(
                    {
                        "name": _TEXT,
                        "volume": _TEXT,
                        "source": _TEXT,
                        "verity": _VERITY,
                        "crypt": _CRYPT,
                    }
                )
            ),
            "minItems": 1,
            "maxItems": volumes.DATA.most,
        },
    }
    verity = {
        "root_hash": _SHA256,
        "salt": _SHA256,
        "data_blocks": _COUNT,
        "hash_start": {"description": "The block of the hash partition at which the tree begins.", **_SIZE},
        "block_size": {"const": BLOCK_SIZE},
    }
    crypt = {
        "cipher": {"const": CIPHER},
        "sector_size": {"const": SECTOR_SIZE},
        "broker": _TEXT,
        "resource": {"type": "string", "maxLength": MAX_RESOURCE},
        "generation": {**_COUNT, "maximum": MAX_GENERATION},
        "check": _SHA256,
    }
    return {
        "$schema": schema.DIALECT,
        "title": "privml-build manifest",
        **_object(fields, late),
        "$defs": {"verity": _object(verity), "crypt": _object(crypt)},
    }


def files() -> dict[str, bytes]:
    """File name and content of every schema."""
    made = {
        LOCK_FILE: lock_schema(Lock, "privml-build lock"),
        TOOLS_LOCK_FILE: lock_schema(ToolsLock, "privml-build tools lock"),
        MANIFEST_FILE: manifest_schema(),
        POLICY_FILE: {"$schema": schema.DIALECT, **policyfile.schema()},
    }
    return (
        schema.files()
        | {name: strictjson.pretty(schema.plain(body)) for name, body in made.items()}
        # Bounds of numbers may be fractions, which canonical JSON has no form for.
        | {name: f"{json.dumps(body, indent=2)}\n".encode() for name, body in openapi.files().items()}
    )


def write(folder: Path) -> None:
    """Write the schemas to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files().items():
        (folder / name).write_bytes(body)


def _object(fields: dict[str, Any], late: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with all of ``fields``, and any of ``late``."""
    return {
        "type": "object",
        "properties": fields | (late or {}),
        "required": list(fields),
        "additionalProperties": False,
    }


def _card() -> dict[str, Any]:
    return _object(
        {
            "use": {"enum": list(network.USES)},
            "addresses": {"type": "array", "items": _TEXT, "maxItems": network.MAX_ADDRESSES},
            "gateways": {"type": "array", "items": _TEXT, "maxItems": network.MAX_GATEWAYS},
        }
    )


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": 4096}


if __name__ == "__main__":
    write(Path("docs/schemas"))
    Path("docs", manual.FILE).write_text(manual.page(), encoding="utf-8")
