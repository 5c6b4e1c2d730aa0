"""The table of a boot's stages as guests show it at ``/boot-stages``: its form, and the one decoder of it.

The boot process writes it, the server shows it, and callers read it. It is not authenticated: whoever answers at an
address can say anything, so it is read strictly and within bounds. What it says is a help, never a reason to trust a
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, canonical, loads

FORMAT = "privml-stages/v2"
_WITHOUT_RESTARTS = "privml-stages/v1"
MAX_TABLE = 256 * 1024
STATUSES = ("pending", "running", "ok", "warning", "skipped", "failed")
PASSED = ("ok", "warning", "skipped")
"""Statuses of a stage that did not stop the boot."""
_NOT_ENDED = ("pending", "running")
_MAX_STAGES = 32
_MAX_NAME = 64
MAX_DETAIL = 1000
_MAX_MS = 1 << 40
_MAX_RESTARTS = 1 << 20


@dataclass(frozen=True)
class Row:
    """A stage, its status, and its times in milliseconds since the agent started; None before.

    ``restarts`` counts how often what the stage started was started again.
    """

    name: str
    status: str = "pending"
    detail: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None
    restarts: int = 0

    @property
    def ended(self) -> bool:
        """True if it will not change by itself any more."""
        return self.status not in _NOT_ENDED

    @property
    def waits(self) -> bool:
        """True while it runs and says what for."""
        return self.status == "running" and bool(self.detail)

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended, or was skipped."""
        if self.started_ms is None or self.ended_ms is None:
            return None
        return (self.ended_ms - self.started_ms) / 1000

    def to_dict(self) -> dict[str, Any]:
        """Its form in the table."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
            "restarts": self.restarts,
        }


@dataclass(frozen=True)
class StageTable:
    """The stages of a boot. ``ready`` is the guest's own word."""

    ready: bool
    rows: tuple[Row, ...]

    @property
    def parked(self) -> Row | None:
        """The first stage that failed: the guest stays as it is until it is started again."""
        return next((row for row in self.rows if row.status == "failed"), None)

    @property
    def seconds(self) -> float:
        """From the agent's start to the end of the last stage that has ended."""
        return max((row.ended_ms or 0 for row in self.rows), default=0) / 1000

    def restarts(self, stage: str) -> int:
        """How often what the named stage started was started again; 0 for a stage that is not there."""
        return next((row.restarts for row in self.rows if row.name == stage), 0)

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        return {"format": FORMAT, "ready": self.ready, "stages": [row.to_dict() for row in self.rows]}

    def encode(self) -> bytes:
        """The table as one line."""
        return canonical(self.to_dict()) + b"\n"


def decode(data: bytes) -> StageTable:
    """Read a table, also of the version before; ``EvidenceError`` for anything that is not one."""
    fields = Fields(loads(data, what="stages", limit=MAX_TABLE), "stages")
    form = fields.text("format", one_of=(FORMAT, _WITHOUT_RESTARTS))
    ready = fields.boolean("ready")
    values = fields.array("stages", limit=_MAX_STAGES)
    fields.end()
    rows = tuple(_row(value, index, counted=form == FORMAT) for index, value in enumerate(values))
    if len({row.name for row in rows}) != len(rows):
        raise EvidenceError("stages: a name occurs twice")
    return StageTable(ready, rows)


def _row(value: object, index: int, *, counted: bool) -> Row:
    fields = Fields(value, f"stages[{index}]")
    row = Row(
        name=printable(fields.text("name", limit=_MAX_NAME)),
        status=fields.text("status", one_of=STATUSES),
        detail=printable(fields.text("detail", limit=MAX_DETAIL)),
        started_ms=_milliseconds(value, fields, "started_ms"),
        ended_ms=_milliseconds(value, fields, "ended_ms"),
        restarts=fields.integer("restarts", high=_MAX_RESTARTS) if counted else 0,
    )
    fields.end()
    return row


def _milliseconds(value: object, fields: Fields, key: str) -> int | None:
    if isinstance(value, dict) and value.get(key, 0) is None:
        fields.null(key)
        return None
    return fields.integer(key, high=_MAX_MS)
