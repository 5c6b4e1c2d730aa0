"""Predicate v2, ``https://privml-build.dev/predicate/measurements/v2``: the predicted registers of an image.

There is one `MeasuredLaunch` for each TEE, platform and machine size. It includes the events, so that a verifier can
explain a difference. The predicate also has the number of agent events before each purpose, so a verifier does not
depend on the stage order of its own version. Contract: docs/ARCHITECTURE.md, "Predicate v2".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.events import agent
from privml.events.agent import AgentEvent
from privml.events.registers import ZERO
from privml.events.variants import PRODUCTION, VARIANTS
from privml.statement.exceptions import MAX_EXCEPTIONS, DeclaredException, exceptions_from
from privml.statement.gpus import Gpus
from privml.statement.launch import MeasuredLaunch

PREDICATE_TYPE = "https://privml-build.dev/predicate/measurements/v2"
MAX_LAUNCHES = 4096
MAX_VALUES = 1_000_000
"""JSON values in a predicate: a launch has some 500, and `base.strictjson` allows 16 MiB."""
MAX_PURPOSES = 16


@dataclass(frozen=True)
class Predicate:
    """Prediction of one image: ``manifest_sha256`` (32 bytes) names the build, ``agent_events`` what its agent
    extends, in order, and ``purposes`` the number of them before a quote for each purpose. ``gpus`` are those it
    needs, None if it needs none.
    """

    name: str
    variant: str
    manifest_sha256: bytes
    agent_events: tuple[AgentEvent, ...]
    purposes: Mapping[str, int]
    launches: tuple[MeasuredLaunch, ...]
    gpus: Gpus | None = None
    exceptions: tuple[DeclaredException, ...] = ()

    def events_of(self, purpose: str) -> tuple[AgentEvent, ...] | None:
        """The agent's events before a quote for ``purpose``; None if the image gives no such quote."""
        count = self.purposes.get(purpose)
        return None if count is None else self.agent_events[:count]

    def runtime_of(self, launch: MeasuredLaunch, purpose: str) -> bytes:
        """RTMR3 (48 bytes) of ``launch`` in a quote for ``purpose``; zero if the image extends nothing."""
        if launch.runtime_unused:
            return ZERO
        return _replayed(self.events_of(purpose) or ())

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "name": self.name,
            "variant": self.variant,
            "manifest_sha256": self.manifest_sha256.hex(),
            "agent_events": [event.to_dict() for event in self.agent_events],
            "purposes": dict(self.purposes),
            "exceptions": [each.to_dict() for each in self.exceptions],
            "gpus": None if self.gpus is None else self.gpus.to_dict(),
            "launches": [launch.to_dict() for launch in self.launches],
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "predicate") -> Predicate:
        """Read the object; ``EvidenceError`` if it is not v2 or is inconsistent."""
        fields = Fields(value, path)
        gpus = fields.fields_or_null("gpus")
        events = agent.events_from(fields.array("agent_events", limit=agent.MAX_EVENTS), f"{path}.agent_events")
        predicate = cls(
            name=fields.text("name", limit=128),
            variant=fields.text("variant", one_of=VARIANTS),
            manifest_sha256=fields.hexadecimal("manifest_sha256", 32),
            agent_events=events,
            purposes=purposes_from(fields.fields("purposes"), len(events)),
            launches=tuple(
                MeasuredLaunch.from_dict(item, f"{path}.launches[{index}]")
                for index, item in enumerate(fields.array("launches", limit=MAX_LAUNCHES))
            ),
            gpus=None if gpus is None else Gpus.from_fields(gpus),
            exceptions=exceptions_from(fields.array("exceptions", limit=MAX_EXCEPTIONS), f"{path}.exceptions"),
        )
        fields.end()
        _check(predicate, path)
        return predicate


@functools.lru_cache(64)
def _replayed(events: tuple[AgentEvent, ...]) -> bytes:
    return agent.replay(events)


def purposes_from(fields: Fields, events: int) -> dict[str, int]:
    """Read ``purposes``: for each, the number of agent events (at most ``events``) before its quotes."""
    found = fields.rest()
    if len(found) > MAX_PURPOSES:
        raise EvidenceError(f"{fields.path}: {len(found)} purposes, expected at most {MAX_PURPOSES}")
    counts = Fields(found, fields.path)
    return {purpose: counts.integer(purpose, high=events) for purpose in sorted(found)}


def _check(predicate: Predicate, path: str) -> None:
    ready = any(event.name == agent.GPU_READY for event in predicate.agent_events)
    if ready is not (predicate.gpus is not None):
        raise EvidenceError(f"{path}.gpus: given if, and only if, agent_events has `{agent.GPU_READY}`")
    replayed = agent.replay(predicate.agent_events)
    for index, launch in enumerate(predicate.launches):
        place = f"{path}.launches[{index}]"
        if launch.runtime is not None and launch.runtime not in (replayed, ZERO):
            raise EvidenceError(f"{place}: its run-time register is neither the replay of agent_events nor zero")
        open_registers = [name for name, value in launch.registers.items() if value is None]
        if predicate.variant == PRODUCTION and open_registers:
            raise EvidenceError(
                f"{place}.registers.{open_registers[0]}: null, which is allowed only for a development image"
            )


def encode(predicate: Predicate) -> bytes:
    """Canonical JSON of a predicate."""
    return canonical(predicate.to_dict())


def decode(data: bytes) -> Predicate:
    """Read a predicate, canonical or not; ``EvidenceError`` if it is not v2."""
    return Predicate.from_dict(loads(data, what="predicate", values=MAX_VALUES))
