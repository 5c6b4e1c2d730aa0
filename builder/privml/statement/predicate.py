"""Predicate v1, ``https://privml-build.dev/predicate/tdx-measurements/v1``: the registers an image will have.

One `MeasuredShape` for each platform and shape on which the image was measured, with the events that lead there, so
that a verifier can name the difference and not only see it. Strict both ways (ARCHITECTURE "Predicate v1").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, b64, canonical, loads
from privml.events import agent
from privml.events.agent import AgentEvent
from privml.events.event import Event, Evidence
from privml.events.registers import DIGEST_SIZE, MRTD, RTMRS, TDX_REGISTERS, ZERO
from privml.events.replay import replay_digests
from privml.events.variants import VARIANTS

PREDICATE_TYPE = "https://privml-build.dev/predicate/tdx-measurements/v1"
MAX_SHAPES = 256
MAX_EVENTS = 4096
_LEVELS = tuple(level.value for level in Evidence)


@dataclass(frozen=True)
class MeasuredShape:
    """The registers on one platform with ``vcpus`` processors and ``memory`` bytes.

    ``mrtd`` lists the accepted values (48 bytes each; single-pass first, then two-pass), ``rtmrs`` are RTMR0..3,
    ``evidence`` says for each register how well its rules are known. ``events`` are the predicted extends, in order.
    """

    platform: str
    vcpus: int
    memory: int
    mrtd: tuple[bytes, ...]
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    evidence: Mapping[str, Evidence]
    events: tuple[Event, ...] = ()

    @property
    def label(self) -> str:
        """``qemu-11-q35, 2 vcpus, 2048 MiB``."""
        return f"{self.platform}, {self.vcpus} vcpus, {self.memory // (1 << 20)} MiB"

    def accepted(self, register: str) -> tuple[bytes, ...]:
        """The values that ``register`` may have."""
        return self.mrtd if register == MRTD else (self.rtmrs[RTMRS.index(register)],)

    def of(self, register: str) -> tuple[Event, ...]:
        """The predicted events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object SHAPE."""
        return {
            "platform": self.platform,
            "vcpus": self.vcpus,
            "memory": self.memory,
            "mrtd": [value.hex() for value in self.mrtd],
            **{register: value.hex() for register, value in zip(RTMRS, self.rtmrs, strict=True)},
            "evidence": {register: self.evidence[register].value for register in TDX_REGISTERS},
            "events": [event.to_dict() for event in self.events],
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "shape") -> MeasuredShape:
        """Read SHAPE; ``EvidenceError`` for anything else, also when its events do not replay to its registers."""
        fields = Fields(value, path)
        platform = fields.text("platform", limit=128)
        vcpus = fields.integer("vcpus", low=1, high=4096)
        memory = fields.integer("memory", low=1)
        mrtd = _digests(fields.array("mrtd", limit=8), f"{path}.mrtd")
        rtmr0, rtmr1, rtmr2, rtmr3 = (fields.hexadecimal(register, DIGEST_SIZE) for register in RTMRS)
        levels = fields.fields("evidence")
        evidence = {register: Evidence(levels.text(register, one_of=_LEVELS)) for register in TDX_REGISTERS}
        levels.end()
        events = tuple(
            Event.from_dict(item, f"{path}.events[{index}]")
            for index, item in enumerate(fields.array("events", limit=MAX_EVENTS))
        )
        fields.end()
        shape = cls(platform, vcpus, memory, mrtd, (rtmr0, rtmr1, rtmr2, rtmr3), evidence, events)
        for register in RTMRS:
            predicted = shape.of(register)
            if predicted and replay_digests(event.digest for event in predicted) not in shape.accepted(register):
                raise EvidenceError(f"{path}: the events of {register.upper()} do not replay to its value")
        return shape


@dataclass(frozen=True)
class Predicate:
    """What is said about one image: ``manifest_sha256`` (32 bytes) names the build, ``agent_events`` its RTMR3."""

    name: str
    variant: str
    manifest_sha256: bytes
    agent_events: tuple[AgentEvent, ...]
    shapes: tuple[MeasuredShape, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "name": self.name,
            "variant": self.variant,
            "manifest_sha256": self.manifest_sha256.hex(),
            "agent_events": [{"name": event.name, "payload": b64(event.payload)} for event in self.agent_events],
            "shapes": [shape.to_dict() for shape in self.shapes],
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "predicate") -> Predicate:
        """Read the object; ``EvidenceError`` for anything that is not v1, or that contradicts itself."""
        fields = Fields(value, path)
        predicate = cls(
            name=fields.text("name", limit=128),
            variant=fields.text("variant", one_of=VARIANTS),
            manifest_sha256=fields.hexadecimal("manifest_sha256", 32),
            agent_events=_agent_events(fields.array("agent_events", limit=agent.MAX_EVENTS), path),
            shapes=tuple(
                MeasuredShape.from_dict(item, f"{path}.shapes[{index}]")
                for index, item in enumerate(fields.array("shapes", limit=MAX_SHAPES))
            ),
        )
        fields.end()
        # RTMR3 is the agent's log, or zeros where the image's kernel cannot extend it (`rtmr3: unused`).
        replayed = replay_digests(agent.digests(predicate.agent_events))
        for index, shape in enumerate(predicate.shapes):
            if shape.rtmrs[3] not in (replayed, ZERO):
                raise EvidenceError(f"{path}.shapes[{index}].rtmr3: not the replay of agent_events, and not zero")
        return predicate


def encode(predicate: Predicate) -> bytes:
    """Canonical JSON of a predicate."""
    return canonical(predicate.to_dict())


def decode(data: bytes) -> Predicate:
    """Read a predicate, canonical or pretty; ``EvidenceError`` when it is not v1."""
    return Predicate.from_dict(loads(data, what="predicate"))


def _agent_events(items: list[Any], path: str) -> tuple[AgentEvent, ...]:
    events = []
    for index, item in enumerate(items):
        fields = Fields(item, f"{path}.agent_events[{index}]")
        events.append(AgentEvent(fields.text("name"), fields.base64("payload", limit=agent.MAX_PAYLOAD)))
        fields.end()
    return tuple(events)


def _digests(items: list[Any], path: str) -> tuple[bytes, ...]:
    if not items:
        raise EvidenceError(f"{path}: empty, expected one value or more")
    fields = Fields({str(index): item for index, item in enumerate(items)}, path)
    return tuple(fields.hexadecimal(str(index), DIGEST_SIZE) for index in range(len(items)))
