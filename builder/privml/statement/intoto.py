"""in-toto Statement v1 with predicate v2: binds the predicate to artefacts by SHA-256.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md; only the fields privml uses are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.statement.predicate import MAX_VALUES, PREDICATE_TYPE, Predicate

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_SUBJECTS = 64


@dataclass(frozen=True)
class Subject:
    """One artefact: its name (``uki.efi``) and SHA-256 (32 bytes)."""

    name: str
    sha256: bytes

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"name": self.name, "digest": {"sha256": self.sha256.hex()}}


@dataclass(frozen=True)
class Statement:
    """Artefacts and their prediction."""

    subjects: tuple[Subject, ...]
    predicate: Predicate

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [item.to_dict() for item in self.subjects],
            "predicateType": PREDICATE_TYPE,
            "predicate": self.predicate.to_dict(),
        }


def encode(statement: Statement) -> bytes:
    """Canonical JSON, the bytes to sign."""
    return canonical(statement.to_dict())


def decode(data: bytes) -> Statement:
    """Read a Statement; ``EvidenceError`` if it is not v1 with predicate v2, or has duplicate subjects."""
    fields = Fields(loads(data, what="statement", values=MAX_VALUES), "statement")
    fields.text("_type", one_of=(STATEMENT_TYPE,))
    subjects = subjects_from(fields.array("subject", limit=MAX_SUBJECTS), "statement.subject")
    fields.text("predicateType", one_of=(PREDICATE_TYPE,))
    statement = Statement(subjects, Predicate.from_dict(fields.take("predicate"), "statement.predicate"))
    fields.end()
    return statement


def subjects_from(items: list[Any], path: str) -> tuple[Subject, ...]:
    """Read subjects: at least one, each name once."""
    subjects = []
    for index, item in enumerate(items):
        subject = Fields(item, f"{path}[{index}]")
        digest = subject.fields("digest")
        subjects.append(Subject(subject.text("name", limit=256), digest.hexadecimal("sha256", 32)))
        digest.end()
        subject.end()
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise EvidenceError(f"{path}: expected at least one artefact, each once")
    return tuple(subjects)
