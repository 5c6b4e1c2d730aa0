"""The question to the process that reads the GPUs, and its answer, which is parsed as a stranger's.

Question: ``{"nonces": [hex32...]}``, one for each GPU to get evidence of; none for the state alone.
Answer: ``{"state": {"environment", "feature", "devtools", "ready"}, "persistent": [bool...], "evidence":
[{"report": b64, "certificates": b64}...]}``, or ``{"error": s}``. The reader loads a large library that parses what
devices say, so nothing in its answer is believed beyond its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privml.agent.nvml import MAX_CERTIFICATES, MAX_REPORT, NONCE_SIZE, State
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import Fields, b64, unhex
from privml.events.configuration import MAX_GPUS
from privml.evidence.document import GPU, DeviceEvidence

MAX_QUESTION = 4096
MAX_ANSWER = 512 * 1024
"""More than 16 GPUs with reports and chains of full size."""
MAX_ERROR = 500
_MAX_STATE = (1 << 32) - 1


@dataclass(frozen=True)
class Reading:
    """What the driver says of all GPUs: their state, whether each is persistent, and evidence of those asked for."""

    state: State
    ready: bool
    persistent: tuple[bool, ...]
    evidence: tuple[DeviceEvidence, ...] = ()

    def encode(self) -> dict[str, Any]:
        """The answer."""
        return {
            "state": {**vars(self.state), "ready": self.ready},
            "persistent": list(self.persistent),
            "evidence": [
                {"report": b64(device.report), "certificates": b64(device.certificates)} for device in self.evidence
            ],
        }


def question(nonces: Sequence[bytes]) -> dict[str, Any]:
    """The question for evidence over these nonces."""
    return {"nonces": [nonce.hex() for nonce in nonces]}


def nonces_of(value: object) -> tuple[bytes, ...]:
    """The nonces of a question; ``EvidenceError`` if it is malformed."""
    fields = Fields(value, "question")
    given = fields.array("nonces", limit=MAX_GPUS)
    fields.end()
    return tuple(unhex(nonce, NONCE_SIZE, what=f"question.nonces[{index}]") for index, nonce in enumerate(given))


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
    ready = state.boolean("ready")
    state.end()
    persistent = fields.array("persistent", limit=MAX_GPUS)
    if not all(isinstance(each, bool) for each in persistent):
        raise EvidenceError("answer.persistent: expected true or false for each GPU")
    evidence = tuple(_evidence(item, n) for n, item in enumerate(fields.array("evidence", limit=MAX_GPUS)))
    fields.end()
    return Reading(State(environment, feature, devtools), ready, tuple(persistent), evidence)


def _evidence(item: object, number: int) -> DeviceEvidence:
    fields = Fields(item, f"answer.evidence[{number}]")
    found = DeviceEvidence(
        GPU,
        fields.base64("report", limit=MAX_REPORT),
        fields.base64("certificates", limit=MAX_CERTIFICATES),
    )
    fields.end()
    return found
