"""Names of the resources of a key broker, and generations of their keys."""

from __future__ import annotations

import re

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

MAX_GENERATION = 2**31 - 1
MAX_RESOURCE = 128
RESOURCE_LIKE = "words of a-z, 0-9, dots and dashes joined by /, like model/qwen2.5"
_RESOURCE = re.compile(r"\A[a-z0-9]+(?:[.-][a-z0-9]+)*(?:/[a-z0-9]+(?:[.-][a-z0-9]+)*)*\Z")


def is_resource(text: str) -> bool:
    """True for a resource's name, as `RESOURCE_LIKE` describes it."""
    return len(text) <= MAX_RESOURCE and _RESOURCE.match(text) is not None


def resource_of(fields: Fields) -> str:
    """Read ``resource``; ``EvidenceError`` if it is not one."""
    text = fields.text("resource", limit=MAX_RESOURCE)
    if not is_resource(text):
        raise EvidenceError(f"{fields.path}.resource: got `{text}`, expected {RESOURCE_LIKE}")
    return text


def generation_of(fields: Fields) -> int:
    """Read ``generation``; ``EvidenceError`` if it is not one."""
    return fields.integer("generation", low=1, high=MAX_GENERATION)
