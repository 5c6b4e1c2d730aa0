"""The question to the process that reads the GPUs, and its answer, which is parsed as a stranger's.

Question: ``{"nonces": [hex32...]}``, one for each GPU to get evidence of; none for the state alone. For GPUs that are
linked by switches there is ``"switches": [hex32...]`` too, one for each switch to get evidence of.
Answer: ``{"state": {"environment", "feature", "devtools", "ready"}, "persistent": [bool...], "evidence":
[{"report": b64, "certificates": b64}...]}``, or ``{"error": s}``. To a question with ``switches``, ``state`` has also
``multi_gpu``, and there is ``"fabric": {"joined": [bool...], "modes": [n...], "evidence": [...]}``. The reader loads
large libraries that parse what devices say, so nothing in its answer is believed beyond its form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privml.agent.nvml import MAX_CERTIFICATES, MAX_REPORT, NONCE_SIZE, State
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import Fields, b64, unhex
from privml.events.gpus import MAX_GPUS, MAX_SWITCHES
from privml.evidence.document import GPU, SWITCH, DeviceEvidence

MAX_QUESTION = 4096
MAX_ANSWER = 512 * 1024
"""More than 16 GPUs and 8 switches with reports and chains of full size."""
MAX_ERROR = 500
_MAX_STATE = (1 << 32) - 1
_LOWEST_MODE, _HIGHEST_MODE = -1, 127


@dataclass(frozen=True)
class Question:
    """Nonces of the GPUs, and of the switches: one for each device to get evidence of.

    ``switches`` is None for GPUs that no switch links; the libraries of switches are left alone then.
    """

    gpus: tuple[bytes, ...] = ()
    switches: tuple[bytes, ...] | None = None

    def encode(self) -> dict[str, Any]:
        """The question."""
        asked: dict[str, Any] = {"nonces": [nonce.hex() for nonce in self.gpus]}
        return asked if self.switches is None else asked | {"switches": [nonce.hex() for nonce in self.switches]}


@dataclass(frozen=True)
class Fabric:
    """What the drivers say of linked GPUs: whether each has joined the fabric, the mode of each switch, and evidence
    of the switches asked for.
    """

    joined: tuple[bool, ...]
    modes: tuple[int, ...]
    evidence: tuple[DeviceEvidence, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What the driver says of all GPUs: their state, whether each is persistent, and evidence of those asked for."""

    state: State
    ready: bool
    persistent: tuple[bool, ...]
    evidence: tuple[DeviceEvidence, ...] = ()
    fabric: Fabric | None = None

    def encode(self) -> dict[str, Any]:
        """The answer."""
        state, fabric = vars(self.state), self.fabric
        if fabric is None:
            state = {name: value for name, value in state.items() if name != "multi_gpu"}
        found: dict[str, Any] = {
            "state": {**state, "ready": self.ready},
            "persistent": list(self.persistent),
            "evidence": _list(self.evidence),
        }
        if fabric is not None:
            found["fabric"] = {
                "joined": list(fabric.joined),
                "modes": list(fabric.modes),
                "evidence": _list(fabric.evidence),
            }
        return found


def question_of(value: object) -> Question:
    """Parse a question; ``EvidenceError`` if it is anything else."""
    fields = Fields(value, "question")
    gpus = _nonces(fields, "nonces", MAX_GPUS)
    switches = _nonces(fields, "switches", MAX_SWITCHES) if fields.has("switches") else None
    fields.end()
    return Question(gpus, switches)


def failure(why: str) -> dict[str, Any]:
    """The answer of a reader that could not read."""
    return {"error": "".join(letter if letter.isprintable() else "?" for letter in why)[:MAX_ERROR]}


def reading_of(value: object) -> Reading:
    """Parse an answer; ``EvidenceError`` if it is malformed, ``HostError`` with the reader's words if it failed."""
    fields = Fields(value, "answer")
    if fields.has("error"):
        why = fields.text("error", limit=MAX_ERROR)
        fields.end()
        if not why.isprintable():
            raise EvidenceError("answer.error: not printable")
        raise HostError(why)
    state = fields.fields("state")
    environment, feature, devtools = (
        state.integer(name, high=_MAX_STATE) for name in ("environment", "feature", "devtools")
    )
    multi_gpu = state.integer("multi_gpu", high=_MAX_STATE) if fields.has("fabric") else 0
    ready = state.boolean("ready")
    state.end()
    persistent = _truths(fields, "persistent")
    evidence = _evidence(fields, GPU, MAX_GPUS)
    fabric = _fabric(fields.fields("fabric")) if fields.has("fabric") else None
    fields.end()
    return Reading(State(environment, feature, devtools, multi_gpu), ready, persistent, evidence, fabric)


def _fabric(fields: Fields) -> Fabric:
    joined = _truths(fields, "joined")
    modes = []
    for index, mode in enumerate(fields.array("modes", limit=MAX_SWITCHES)):
        if type(mode) is not int or not _LOWEST_MODE <= mode <= _HIGHEST_MODE:
            raise EvidenceError(f"{fields.path}.modes[{index}]: expected a number")
        modes.append(mode)
    found = Fabric(joined, tuple(modes), _evidence(fields, SWITCH, MAX_SWITCHES))
    fields.end()
    return found


def _nonces(fields: Fields, name: str, limit: int) -> tuple[bytes, ...]:
    given = fields.array(name, limit=limit)
    return tuple(unhex(nonce, NONCE_SIZE, what=f"question.{name}[{index}]") for index, nonce in enumerate(given))


def _truths(fields: Fields, name: str) -> tuple[bool, ...]:
    found = fields.array(name, limit=MAX_GPUS)
    if not all(isinstance(each, bool) for each in found):
        raise EvidenceError(f"{fields.path}.{name}: expected true or false for each GPU")
    return tuple(found)


def _list(devices: tuple[DeviceEvidence, ...]) -> list[dict[str, str]]:
    return [{"report": b64(device.report), "certificates": b64(device.certificates)} for device in devices]


def _evidence(fields: Fields, kind: str, limit: int) -> tuple[DeviceEvidence, ...]:
    found = []
    for number, item in enumerate(fields.array("evidence", limit=limit)):
        entry = Fields(item, f"{fields.path}.evidence[{number}]")
        found.append(
            DeviceEvidence(
                kind,
                entry.base64("report", limit=MAX_REPORT),
                entry.base64("certificates", limit=MAX_CERTIFICATES),
            )
        )
        entry.end()
    return tuple(found)
