"""Counts of altered evidence: tried, refused, refused for another reason, wrongly accepted, and without a meaning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Codes = frozenset[str] | None
"""The codes of a refusal, empty if the evidence is malformed; None if it is accepted."""


@dataclass
class Tally:
    """What became of the altered evidence. ``neutral`` counts, apart, accepted changes without a meaning, by kind."""

    tried: int = 0
    refused: int = 0
    wrong_code: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    neutral: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.tried + other.tried,
            self.refused + other.refused,
            self.wrong_code + other.wrong_code,
            self.wrong + other.wrong,
            self.neutral + other.neutral,
            self.codes + other.codes,
        )

    def add(self, name: str, found: Codes, needed: frozenset[str], kind: str | None) -> None:
        """Count one altered copy: what was found, the codes of which it needs one, and its kind if it is neutral."""
        if found is None and kind is not None:
            self.neutral[kind] += 1
            return
        self.tried += 1
        if found is None:
            self.wrong.append(name)
            return
        self.refused += 1
        self.codes.update(found or {"malformed"})
        if found and not found & needed:
            self.wrong_code.append(f"{name}: {' '.join(sorted(found))}, expected one of {' '.join(sorted(needed))}")

    def __str__(self) -> str:
        counts = f"tried {self.tried}, refused {self.refused}"
        return f"{counts}, wrong code {len(self.wrong_code)}, wrong {len(self.wrong)}"
