"""Lists of machines in a policy, by the ids that their signed evidence shows."""

from __future__ import annotations

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, unhex

MAX_MACHINES = 4096


def ids(fields: Fields, name: str, size: int) -> tuple[bytes, ...]:
    """The machines of a list in hex, ``size`` bytes each; ``EvidenceError`` unless they are sorted, each once."""
    path = f"{fields.path}.{name}"
    items = fields.array(name, limit=MAX_MACHINES)
    found = [unhex(item, size, what=f"{path}[{number}]") for number, item in enumerate(items)]
    return ordered(found, path)


def ids_or_null(fields: Fields, name: str, size: int) -> tuple[bytes, ...] | None:
    """The same, or None for null, which means any machine."""
    value = fields.take(name)
    return None if value is None else ids(Fields({name: value}, fields.path), name, size)


def ordered(found: list[bytes], path: str) -> tuple[bytes, ...]:
    """``found`` if it is sorted and has each item once, else ``EvidenceError``."""
    if found != sorted(set(found)):
        raise EvidenceError(f"{path}: expected them sorted, each once")
    return tuple(found)
