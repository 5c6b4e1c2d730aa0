"""The boot stages that a guest shows at ``/boot-stages``, and what to do when one failed.

The table is not authenticated: whoever answers at the address can say anything. It is read strictly and within
bounds, helps who operates a machine, and is no reason to trust one.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError, HostError, printable
from privml.base.strictjson import Fields, loads
from privml.client.connection import Endpoint, GuestConnection, reason

FORMAT = "privml-stages/v1"
"""The format that `agent.progress` writes."""
PATH = "/boot-stages"
TIMEOUT = 10.0
MAX_TABLE = 256 * 1024
_STATUSES = ("pending", "running", "ok", "warning", "skipped", "failed")
_NOT_ENDED = ("pending", "running")
_MAX_STAGES = 32
_MAX_NAME = 64
_MAX_DETAIL = 1000
_MAX_MS = 1 << 40


@dataclass(frozen=True)
class Stage:
    """A stage, its status, and its times in milliseconds since the agent started; None before."""

    name: str
    status: str
    detail: str
    started_ms: int | None
    ended_ms: int | None

    @property
    def ended(self) -> bool:
        """True if it will not change by itself any more."""
        return self.status not in _NOT_ENDED

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended, or was skipped."""
        if self.started_ms is None or self.ended_ms is None:
            return None
        return (self.ended_ms - self.started_ms) / 1000

    @property
    def remedy(self) -> str:
        """What the operator can do about a failed stage; empty if nothing is known."""
        cause = self.detail.removeprefix(f"{self.name}: ")
        return next((text for start, text in _REMEDIES if cause.startswith(start)), "")

    def to_dict(self) -> dict[str, Any]:
        """Its form in `status --json`."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "seconds": self.seconds,
            "remedy": self.remedy if self.status == "failed" else "",
        }


@dataclass(frozen=True)
class Stages:
    """The table of a boot. ``ready`` is the guest's own word."""

    ready: bool
    rows: tuple[Stage, ...]

    @property
    def parked(self) -> Stage | None:
        """The first stage that failed: the guest stays as it is until it is started again."""
        return next((row for row in self.rows if row.status == "failed"), None)

    @property
    def seconds(self) -> float:
        """From the agent's start to the end of the last stage that has ended."""
        return max((row.ended_ms or 0 for row in self.rows), default=0) / 1000

    def to_dict(self) -> dict[str, Any]:
        """Its form in `status --json`."""
        parked = self.parked
        return {
            "ready": self.ready,
            "parked": None if parked is None else parked.name,
            "seconds": self.seconds,
            "stages": [row.to_dict() for row in self.rows],
        }


def decode(data: bytes) -> Stages:
    """Read a table; ``EvidenceError`` for anything that is not one."""
    fields = Fields(loads(data, what="stages", limit=MAX_TABLE), "stages")
    fields.text("format", one_of=(FORMAT,))
    ready = fields.boolean("ready")
    rows = tuple(_stage(value, index) for index, value in enumerate(fields.array("stages", limit=_MAX_STAGES)))
    fields.end()
    if len({row.name for row in rows}) != len(rows):
        raise EvidenceError("stages: a name occurs twice")
    return Stages(ready, rows)


def fetch(where: Endpoint, timeout: float = TIMEOUT) -> Stages:
    """The table of the guest at ``where``; ``HostError`` without an answer within ``timeout`` seconds."""
    connection = GuestConnection(where, timeout=timeout)
    try:
        status, body = connection.get(PATH, MAX_TABLE)
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{where.url}: no boot stages: {printable(reason(error))[:300]}") from error
    finally:
        connection.abort()
    if status != 200:
        raise HostError(f"{where.url}: status {status} for {PATH}, expected 200")
    return decode(body)


def _stage(value: object, index: int) -> Stage:
    fields = Fields(value, f"stages[{index}]")
    stage = Stage(
        name=printable(fields.text("name", limit=_MAX_NAME)),
        status=fields.text("status", one_of=_STATUSES),
        detail=printable(fields.text("detail", limit=_MAX_DETAIL)),
        started_ms=_milliseconds(value, fields, "started_ms"),
        ended_ms=_milliseconds(value, fields, "ended_ms"),
    )
    fields.end()
    return stage


def _milliseconds(value: object, fields: Fields, key: str) -> int | None:
    if isinstance(value, dict) and value.get(key, 0) is None:
        fields.null(key)
        return None
    return fields.integer(key, high=_MAX_MS)


_GPU_MODE = "set the GPU's mode on the host, then start the guest again: `privml-build doctor --tdx --gpu` shows it"
_GENUINE = "this GPU does not prove that it is genuine: try another one, and tell its vendor"
_ENGINE_ENDED = "build the recipe's development variant: its console has the engine's last lines"
_REMEDIES = (
    ("no partition is named", "attach the model's disk, as `privml-build run NAME --print-command` shows"),
    ("engine-answers-wrong", "model, driver and GPU do not compute right together: see `privml-build lint`"),
    ("not ready after", "give the machine more memory and vCPUs, or the image a smaller model"),
    ("exited", _ENGINE_ENDED),
    ("the engine exited", _ENGINE_ENDED),
    ("recipe declares", "give the guest the GPUs of its recipe: `privml-build run NAME --tdx --gpu PCI-ADDRESS`"),
    ("gpu-count", "give the guest the GPUs of its recipe: `privml-build run NAME --tdx --gpu PCI-ADDRESS`"),
    ("gpu-cc-off", _GPU_MODE),
    ("gpu-devtools", _GPU_MODE),
    ("gpu-not-allowed", "update the GPU's firmware, or name the pair in `gpu.allowed` of the recipe"),
    ("gpu-driver", "reset the GPU on the host, then start the guest again"),
    ("gpu-persistence", "reset the GPU on the host, then start the guest again"),
    ("gpu-ready", "reset the GPU on the host, then start the guest again"),
    ("gpu-fabric", "reset all GPUs and switches of the board on the host, then start the guest again"),
    ("gpu-topology", "give the guest all GPUs and switches of one board, each in protected PCIe mode"),
    ("gpu-", _GENUINE),
    ("no-tee", "start it as a TD: `privml-build run NAME --tdx`, on a host that `privml-build doctor --tdx` accepts"),
)
"""How a failed stage's detail begins, without the stage's name, and what to do; the first that fits counts."""
