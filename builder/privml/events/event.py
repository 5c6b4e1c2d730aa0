"""One predicted or explained measurement: what is extended into which register, from which input, known how well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields
from privml.events.registers import DIGEST_SIZE, LAUNCH, register_named


class Evidence(StrEnum):
    """How a rule is known: a real TD showed it, real firmware under a software TPM did, or only its source did.

    Two values have no rule: ``endorsed`` is signed by the firmware's vendor, ``learnt`` was copied from captures.
    """

    HARDWARE = "hardware"
    ENDORSED = "endorsed"
    TPM_BOOT = "tpm-boot"
    SOURCE = "source"
    LEARNT = "learnt"

    @property
    def strength(self) -> int:
        """4 for hardware down to 0 for learnt, in the order above; the weakest one speaks for a register."""
        return _STRENGTH[self]


_SEEN = re.compile(r"(?:(.*) )?\[seen on ([^\[\]]+)\]", re.DOTALL)
_STRENGTH = {level: strength for strength, level in enumerate(reversed(Evidence))}


@dataclass(frozen=True)
class Event:
    """A 48-byte SHA-384 ``digest`` that is extended into ``register`` as TCG event ``type``.

    ``origin`` names the input (``uki.efi .cmdline (recipes/demo-cpu.yaml:4 name)``), ``evidence`` how well the rule
    is known, ``note`` anything a reader of a difference should know, ``seen`` the firmware on which the rule was seen
    (``sha256:`` of its file, ``mrtd:`` or ``cfv:``; empty when on none). In JSON ``seen`` ends the note.
    Of pages that a launch digest covers, ``gpa`` is the first's guest-physical address and ``count`` their number.
    """

    register: str
    type: int
    digest: bytes
    origin: str
    evidence: Evidence
    note: str = ""
    seen: str = ""
    gpa: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.register != LAUNCH and (self.gpa is not None or self.count is not None):
            raise EvidenceError(f"event of {self.register}: gpa and count belong to events of `{LAUNCH}`")
        if len(self.digest) != DIGEST_SIZE:
            raise EvidenceError(f"event digest is {len(self.digest)} bytes, expected {DIGEST_SIZE}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object EVENT (docs/ARCHITECTURE.md, "Predicate v2")."""
        places = {"gpa": self.gpa, "count": self.count}
        return {
            **{name: value for name, value in places.items() if value is not None},
            "register": self.register,
            "type": self.type,
            "digest": self.digest.hex(),
            "origin": self.origin,
            "evidence": self.evidence.value,
            "note": self.note + (f"{' ' if self.note else ''}[seen on {self.seen}]" if self.seen else ""),
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "event") -> Event:
        """Read what ``to_dict`` writes; ``EvidenceError`` for anything else, naming the field under ``path``."""
        fields = Fields(value, path)
        note, seen = _split(fields.text("note"))
        event = cls(
            register=register_named(fields.text("register")),
            type=fields.integer("type", high=0xFFFFFFFF),
            digest=fields.hexadecimal("digest", DIGEST_SIZE),
            origin=fields.text("origin"),
            evidence=Evidence(fields.text("evidence", one_of=tuple(level.value for level in Evidence))),
            note=note,
            seen=seen,
            gpa=fields.integer("gpa") if fields.has("gpa") else None,
            count=fields.integer("count", low=1) if fields.has("count") else None,
        )
        fields.end()
        return event


def _split(text: str) -> tuple[str, str]:
    found = _SEEN.fullmatch(text)
    return (found[1] or "", found[2]) if found else (text, "")


def seen_words(event: Event) -> str:
    """`` (seen on mrtd:b24d3b24e9e3c160..)`` to end a line with: the whole name is in the JSON. Empty for none."""
    kind, colon, digest = event.seen.partition(":")
    short = f"{kind}:{digest[:16]}.." if colon else event.seen
    return f"  (seen on {short})" if short else ""
