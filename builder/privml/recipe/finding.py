"""What is wrong with a recipe, one finding each: where, what, and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from privml.base.errors import RecipeError

Severity = Literal["error", "warning"]


class RuleBroken(ValueError):
    """A value that a lint rule refuses while a recipe is read; ``rule`` is what `lint --explain` takes."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(frozen=True)
class Finding:
    """One problem. ``file`` and ``line`` are those of the field; ``rule`` is empty for a plain mistake of form."""

    text: str
    rule: str = ""
    severity: Severity = "error"
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + self.text + (f" [{self.rule}]" if self.rule else "")


class RecipeProblems(RecipeError):
    """A recipe that cannot be used, with every reason as a finding."""

    def __init__(self, findings: Sequence[Finding], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(finding) for finding in findings), hint=hint)
        self.findings = tuple(findings)
