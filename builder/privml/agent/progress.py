"""The public progress of a boot: which stages ran, how long they took, what went wrong.

The boot process replaces the file atomically and the server shows it at `/boot-stages`. Anyone can read it, so
details hold names and digests, never secrets or prompts. The stages themselves are defined in `events.stages`, the
form of the table in `events.stagetable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from privml.agent import console
from privml.events.stagetable import MAX_DETAIL, PASSED, STATUSES, Row, StageTable


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

    def note(self, name: str, detail: str) -> None:
        """Say what a running stage waits for."""
        self._stages[name] = replace(self._stages[name], detail=console.clean(detail, MAX_DETAIL))
        self._write()

    def again(self, name: str, why: str) -> None:
        """Mark a stage that had passed as running again, one restart more: until it ends, nothing is ready."""
        row = self._stages[name]
        self._stages[name] = replace(
            row,
            status="running",
            detail=why[:MAX_DETAIL],
            started_ms=self._now(),
            ended_ms=None,
            restarts=row.restarts + 1,
        )
        self._ready = False
        self._write()

    def count(self, name: str) -> None:
        """Count a restart of what the stage started, which kept it running."""
        self._stages[name] = replace(self._stages[name], restarts=self._stages[name].restarts + 1)
        self._write()

    def end(self, name: str, status: str, detail: str = "") -> None:
        """Mark the stage as finished; a failure at any time makes the machine not ready."""
        assert status in STATUSES
        row = self._stages[name]
        detail = console.clean(detail, MAX_DETAIL)
        self._stages[name] = replace(row, status=status, detail=detail, ended_ms=self._now())
        # The last stage passes once, and the others may be repeated after it.
        self._ready = all(stage.status in PASSED for stage in self._stages.values())
        self._write()

    def _now(self) -> int:
        return int((self._clock() - self._start) * 1000)

    def _write(self) -> None:
        # On tmpfs a rename is enough: nothing has to survive a power cut.
        table = StageTable(self._ready, tuple(self._stages.values()))
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_bytes(table.encode())
        temporary.chmod(0o644)
        temporary.replace(self._path)
