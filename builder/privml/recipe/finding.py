"""Findings about a recipe: position, problem, and the broken rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import RecipeError

Severity = Literal["error", "warning"]


class RuleBroken(ValueError):
    """A value refused by a lint rule while a recipe is read; ``rule`` is the argument for `lint --explain`."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(frozen=True)
class Finding:
    """One problem. ``file`` and ``line`` locate the field; ``rule`` is empty for a syntax or type error."""

    text: str
    rule: str = ""
    severity: Severity = "error"
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + self.text + (f" [{self.rule}]" if self.rule else "")


class RecipeProblems(RecipeError):
    """A recipe is not usable; carries all reasons as findings."""

    def __init__(self, findings: Sequence[Finding], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(finding) for finding in findings), hint=hint)
        self.findings = tuple(findings)
