"""The policy file (``privml-policy/v1``), in TOML or JSON: read one, and its JSON Schema.

A file has the fields of `Policy` that are made with `policyfield.setting`, and a table for each TEE. Every field is
optional; a field that is left out has its default, which is strict.
"""

from __future__ import annotations

import tomllib
from typing import Any

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import loads
from privml.verify import policyfield
from privml.verify.policy import Policy

FORMAT = "privml-policy/v1"
MAX_FILE = 256 * 1024


def decode(data: bytes, name: str) -> Policy:
    """Read a policy file; ``name`` ends in ``.toml`` or ``.json``. ``UsageError`` for anything but a valid policy."""
    if len(data) > MAX_FILE:
        raise UsageError(f"{name}: more than {MAX_FILE} bytes")
    try:
        if name.endswith(".json"):
            value = loads(data, what=name)
        elif name.endswith(".toml"):
            value = tomllib.loads(data.decode("utf-8"))
        else:
            raise UsageError(f"{name}: expected a name that ends in .toml or .json")
    except (EvidenceError, ValueError, RecursionError) as error:
        reason = error.message if isinstance(error, EvidenceError) else f"{name}: {error}"
        raise UsageError(reason, hint="the file is a policy in TOML or JSON") from error
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise UsageError(f'{name}: expected the field format = "{FORMAT}"')
    try:
        return policyfield.read(Policy, value)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from error


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file."""
    made = policyfield.schema(Policy)
    properties = {"format": {"const": FORMAT}, **made.pop("properties")}
    return {
        "title": "privml-build policy",
        "description": "What a verifier accepts beyond the image itself. All fields but `format` are optional.",
        **made,
        "properties": properties,
        "required": ["format"],
    }
