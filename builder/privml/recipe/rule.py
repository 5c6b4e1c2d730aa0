"""A rule of `lint`, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privml.recipe.finding import Severity


@dataclass(frozen=True)
class Rule:
    """One rule. ``reference`` is a public thread or manual that shows what happens without it."""

    id: str
    severity: Severity
    stage: Literal["read", "judge", "guest"]
    what: str
    why: str
    reference: str

    def lines(self) -> list[str]:
        """The full description, for `lint --explain`."""
        return [
            f"{self.id} ({self.severity}): {self.what}",
            f"  why       {self.why}",
            f"  see       {self.reference}",
        ]
