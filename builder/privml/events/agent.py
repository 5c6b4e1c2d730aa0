"""The boot agent's events: the values it extends into RTMR3, and its log of them.

One event is the line ``JCS({"seq": n, "name": s, "payload": b64})``; its digest is
``SHA384("privml-event-v1\\0" || line)``; the log is the lines, each ended by a newline.
Contract: docs/ARCHITECTURE.md, "Agent events".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.events.crypt import Crypt
from privml.events.replay import replay_digests

CONFIG = "config"
GPU_POLICY = "gpu-policy"
GPU_READY = "gpu-ready"
KEYS = "keys"
MODEL = "model"
DATA = "data"
ENGINE = "engine"
SYSTEM_READY = "system-ready"
FAILED = "failed"

NAMES = (CONFIG, GPU_POLICY, GPU_READY, KEYS, MODEL, DATA, ENGINE, SYSTEM_READY, FAILED)
"""All event names. Their order in a boot is defined in `events.stages`."""

MAX_PAYLOAD = 64 * 1024
MAX_EVENTS = 64
_DOMAIN = b"privml-event-v1\0"
_MAX_LINE = MAX_PAYLOAD * 4 // 3 + 256


@dataclass(frozen=True)
class AgentEvent:
    """One event of the boot: its name (out of ``NAMES``) and its payload bytes (canonical JSON, at most 64 KiB)."""

    name: str
    payload: bytes

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise EvidenceError(f"agent event `{self.name[:40]}` is not known: expected one of {', '.join(NAMES)}")
        if len(self.payload) > MAX_PAYLOAD:
            raise EvidenceError(
                f"agent event `{self.name}`: payload of {len(self.payload)} bytes, expected at most 64 KiB"
            )

    def to_dict(self) -> dict[str, Any]:
        """``{"name": s, "payload": b64}``, the form in manifest and predicate."""
        return {"name": self.name, "payload": b64(self.payload)}


def events_from(items: list[Any], path: str) -> tuple[AgentEvent, ...]:
    """The events of a manifest or predicate; ``EvidenceError`` names the item under ``path``."""
    found = []
    for index, item in enumerate(items):
        fields = Fields(item, f"{path}[{index}]")
        found.append(AgentEvent(fields.text("name"), fields.base64("payload", limit=MAX_PAYLOAD)))
        fields.end()
    return tuple(found)


def config_event(sha256: str) -> AgentEvent:
    """``config``: hex SHA-256 of the bytes of the measured configuration file."""
    return AgentEvent(CONFIG, canonical({"sha256": sha256}))


def gpu_policy_event(
    vendor: str, architecture: str, count: int, allowed: Iterable[tuple[str, str]], switches: int = 0
) -> AgentEvent:
    """``gpu-policy``: what each GPU was checked to be. ``allowed`` are pairs of driver and VBIOS; none: any VBIOS.

    ``switches`` is in the payload only if there are some: then GPUs and switches were checked to be one group.
    """
    pairs = [{"driver": driver, "vbios": vbios} for driver, vbios in allowed]
    payload: dict[str, object] = {
        "vendor": vendor,
        "architecture": architecture,
        "count": count,
        "allowed": pairs,
        **({"switches": switches} if switches else {}),
    }
    return AgentEvent(GPU_POLICY, canonical(payload))


def gpu_ready_event(gpus: int, switches: int, *, cc: str = "on", devtools: str = "off") -> AgentEvent:
    """``gpu-ready``: the numbers of devices, and the modes that the driver reports, after which the GPUs are used."""
    return AgentEvent(GPU_READY, canonical({"gpus": gpus, "switches": switches, "cc": cc, "devtools": devtools}))


def keys_event(encrypted: Iterable[Crypt]) -> AgentEvent:
    """``keys``: the keys that were released to this machine, and opened their volumes."""
    names = [
        {"broker": each.broker, "resource": each.resource, "generation": each.generation, "check": each.check.hex()}
        for each in encrypted
    ]
    return AgentEvent(KEYS, canonical({"resources": names}))


def model_event(name: str, root_hash: str) -> AgentEvent:
    """``model``: its name and the hex root hash of its dm-verity partition; one event for each model volume."""
    return AgentEvent(MODEL, canonical({"name": name, "root_hash": root_hash}))


def data_event(name: str, root_hash: str) -> AgentEvent:
    """``data``: its name and the hex root hash of its dm-verity partition; one event for each data volume."""
    return AgentEvent(DATA, canonical({"name": name, "root_hash": root_hash}))


def engine_event(name: str, argv: list[str]) -> AgentEvent:
    """``engine``: its name and the SHA-256 of the canonical JSON list of its argv."""
    return AgentEvent(ENGINE, canonical({"name": name, "argv_sha256": hashlib.sha256(canonical(argv)).hexdigest()}))


def system_ready_event() -> AgentEvent:
    """``system-ready``: the agent serves from now on."""
    return AgentEvent(SYSTEM_READY, canonical({}))


def failed_event() -> AgentEvent:
    """``failed``: extended on any failure, so that no later quote verifies."""
    return AgentEvent(FAILED, canonical({}))


def encode_line(seq: int, event: AgentEvent) -> bytes:
    """The canonical line of event number ``seq`` (from 0), without the newline."""
    return canonical({"seq": seq, "name": event.name, "payload": b64(event.payload)})


def digest(line: bytes) -> bytes:
    """The 48 bytes that are extended into RTMR3 for ``line`` (without its newline)."""
    return hashlib.sha384(_DOMAIN + line).digest()


def encode_log(events: Iterable[AgentEvent]) -> bytes:
    """The whole log, numbered from 0, each line ended by a newline."""
    return b"".join(encode_line(seq, event) + b"\n" for seq, event in enumerate(events))


def _lines(log: bytes) -> list[bytes]:
    if not log:
        return []
    if not log.endswith(b"\n"):
        raise EvidenceError("agent log: the last line has no newline")
    lines = log[:-1].split(b"\n", MAX_EVENTS)
    if len(lines) > MAX_EVENTS:
        raise EvidenceError(f"agent log: more than {MAX_EVENTS} events")
    return lines


def parse_log(log: bytes) -> tuple[AgentEvent, ...]:
    """Decode a log; ``EvidenceError`` unless every line is canonical, numbered in order, and has a known name.

    The verifier, not the parser, checks order and payloads.
    """
    events: list[AgentEvent] = []
    for seq, line in enumerate(_lines(log)):
        what = f"agent log line {seq + 1}"
        fields = Fields(loads(line, what=what, limit=_MAX_LINE), what)
        number = fields.integer("seq")
        event = AgentEvent(fields.text("name", one_of=NAMES), fields.base64("payload", limit=MAX_PAYLOAD))
        fields.end()
        if number != seq:
            raise EvidenceError(f"{what}: seq is {number}, expected {seq}")
        if encode_line(seq, event) != line:
            raise EvidenceError(f"{what}: not canonical JSON (RFC 8785)")
        events.append(event)
    return tuple(events)


def digests(events: Iterable[AgentEvent]) -> tuple[bytes, ...]:
    """The RTMR3 extends of ``events``, in order."""
    return tuple(digest(encode_line(seq, event)) for seq, event in enumerate(events))


def replay(events: Iterable[AgentEvent]) -> bytes:
    """The 48-byte RTMR3 after ``events``."""
    return replay_digests(digests(events))
