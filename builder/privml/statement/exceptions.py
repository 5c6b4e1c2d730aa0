"""What weakens an image, as manifests and predicates declare it. Verifiers refuse it unless their policy names it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

MAX_EXCEPTIONS = 64


@dataclass(frozen=True)
class DeclaredException:
    """One exception: its kind, what it is about, and the recipe's reason.

    Kinds that this version does not know are kept: a verifier accepts none that its policy does not name.
    """

    kind: str
    subject: str
    reason: str

    @property
    def name(self) -> str:
        """``KIND:SUBJECT``, by which a policy accepts it."""
        return f"{self.kind}:{self.subject}"

    def to_dict(self) -> dict[str, str]:
        """The JSON object."""
        return {"kind": self.kind, "subject": self.subject, "reason": self.reason}


def exceptions_from(items: Iterable[Any], path: str) -> tuple[DeclaredException, ...]:
    """Read a list of exceptions, each named once."""
    found = tuple(_exception(Fields(item, f"{path}[{number}]")) for number, item in enumerate(items))
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise EvidenceError(f"{path}: `{twice}` is listed twice")
    return found


def _exception(fields: Fields) -> DeclaredException:
    made = DeclaredException(
        fields.text("kind", limit=64), fields.text("subject", limit=200), fields.text("reason", limit=400)
    )
    fields.end()
    return made
