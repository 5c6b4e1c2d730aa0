"""One finding about a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Line:
    """One finding; ``fail`` is used only for what is required."""

    status: Literal["ok", "warn", "fail"]
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4} {self.name}: {self.found}{f'; {self.remedy}' if self.remedy else ''}"
