"""The public progress of a boot: which stages ran, how long they took, what went wrong.

The boot process replaces the file atomically and the server shows it at `/boot-stages`. Anyone can read it, so
details hold names and digests, never secrets or prompts. The stages themselves are defined in `events.stages`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.agent import console
from privml.base.strictjson import canonical

FORMAT = "privml-stages/v1"
STATUSES = ("pending", "running", "ok", "warning", "skipped", "failed")
_THROUGH = ("ok", "warning", "skipped")


@dataclass(frozen=True)
class Row:
    """A stage, its status (one of ``STATUSES``), and its times in milliseconds since the agent started."""

    name: str
    status: str = "pending"
    detail: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The stage's row in the file."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
        }


class Progress:
    """The stage list and its file; every change is written before the call returns."""

    def __init__(self, path: Path, names: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._start = clock()
        self._stages = {name: Row(name) for name in names}
        self._ready = False
        self._write()

    @property
    def ready(self) -> bool:
        """True when every stage has finished and none failed."""
        return self._ready

    def stage(self, name: str) -> Row:
        """The row of one stage."""
        return self._stages[name]

    def begin(self, name: str) -> None:
        """Mark the stage as running."""
        self._stages[name] = replace(self._stages[name], status="running", started_ms=self._now())
        self._write()

    def end(self, name: str, status: str, detail: str = "") -> None:
        """Mark the stage as finished; a failure at any time makes the machine not ready."""
        assert status in STATUSES
        self._stages[name] = replace(
            self._stages[name], status=status, detail=console.clean(detail), ended_ms=self._now()
        )
        if status == "failed":
            self._ready = False
        elif name == list(self._stages)[-1]:
            self._ready = all(stage.status in _THROUGH for stage in self._stages.values())
        self._write()

    def _now(self) -> int:
        return int((self._clock() - self._start) * 1000)

    def _write(self) -> None:
        # On tmpfs a rename is enough: nothing has to survive a power cut.
        data = canonical(
            {"format": FORMAT, "ready": self._ready, "stages": [s.to_json() for s in self._stages.values()]}
        )
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_bytes(data + b"\n")
        temporary.chmod(0o644)
        temporary.replace(self._path)
