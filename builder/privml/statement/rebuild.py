"""What a rebuilder says: in-toto Statement v1 with predicate ``https://privml-build.dev/predicate/rebuild/v1``.

The subjects are what the rebuilder *got*, also when it differs. The predicate names what was to be rebuilt by its
digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, first_repeated, loads
from privml.statement.intoto import MAX_SUBJECTS, STATEMENT_TYPE, Subject, subjects_from
from privml.statement.names import name_of, version_of

PREDICATE_TYPE = "https://privml-build.dev/predicate/rebuild/v1"
IDENTICAL = "identical"
DIFFERS = "differs"
MAX_DIFFERENCES = 1024
_MAX_SURROUNDINGS = 64


@dataclass(frozen=True)
class Rebuild:
    """One rebuild. Digests are 32 bytes, of the statement's payload and the canonical recipe and lock.

    ``tool`` is the version of privml-build, ``surroundings`` what the rebuilder says of the machine, ``finished``
    Unix seconds by the rebuilder's clock.
    """

    subjects: tuple[Subject, ...]
    name: str
    version: str
    result: str
    statement_sha256: bytes
    recipe_sha256: bytes
    lock_sha256: bytes
    tool: str
    surroundings: Mapping[str, str]
    finished: int
    differences: tuple[str, ...]

    def encode(self) -> bytes:
        """Encode as canonical JSON, the bytes to sign."""
        return canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [each.to_dict() for each in self.subjects],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "name": self.name,
                    "version": self.version,
                    "result": self.result,
                    "statement_sha256": self.statement_sha256.hex(),
                    "recipe_sha256": self.recipe_sha256.hex(),
                    "lock_sha256": self.lock_sha256.hex(),
                    "tool": self.tool,
                    "surroundings": dict(self.surroundings),
                    "finished": self.finished,
                    "differences": list(self.differences),
                },
            }
        )


def decode(data: bytes, what: str = "rebuild") -> Rebuild:
    """Read the Statement; ``EvidenceError`` if it is malformed, not canonical or contradicts itself."""
    fields = Fields(loads(data, what=what), what)
    fields.text("_type", one_of=(STATEMENT_TYPE,))
    subjects = subjects_from(fields.array("subject", limit=MAX_SUBJECTS), f"{what}.subject")
    fields.text("predicateType", one_of=(PREDICATE_TYPE,))
    inner = fields.fields("predicate")
    fields.end()
    made = Rebuild(
        subjects=subjects,
        name=name_of(inner),
        version=version_of(inner),
        result=inner.text("result", one_of=(IDENTICAL, DIFFERS)),
        statement_sha256=inner.hexadecimal("statement_sha256", 32),
        recipe_sha256=inner.hexadecimal("recipe_sha256", 32),
        lock_sha256=inner.hexadecimal("lock_sha256", 32),
        tool=inner.text("tool", limit=64),
        surroundings=_surroundings(inner.fields("surroundings")),
        finished=inner.integer("finished"),
        differences=_differences(inner),
    )
    inner.end()
    if (made.result == IDENTICAL) is bool(made.differences):
        raise EvidenceError(f"{what}.predicate.differences: given if, and only if, the result is `{DIFFERS}`")
    if made.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON (RFC 8785)")
    return made


def _surroundings(fields: Fields) -> dict[str, str]:
    names = fields.names()
    if len(names) > _MAX_SURROUNDINGS:
        raise EvidenceError(f"{fields.path}: {len(names)} entries, expected at most {_MAX_SURROUNDINGS}")
    if strange := [name for name in names if not (name.isascii() and name.isprintable() and len(name) <= 64)]:
        raise EvidenceError(
            f"{fields.path}: name `{strange[0][:80]}`, expected at most 64 printable ASCII characters"
        )
    return {name: fields.text(name, limit=256) for name in names}


def _differences(fields: Fields) -> tuple[str, ...]:
    items = fields.array("differences", limit=MAX_DIFFERENCES)
    rows = Fields({str(number): item for number, item in enumerate(items)}, f"{fields.path}.differences")
    found = tuple(rows.text(str(number), limit=400) for number in range(len(items)))
    if twice := first_repeated(found):
        raise EvidenceError(f"{fields.path}.differences: `{twice}` is listed twice")
    return found
