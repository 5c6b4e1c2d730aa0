"""Machines whose part of RTMR0 was copied from their captures, because no rule predicts it: those of a cloud.

What the image adds, in RTMR0 the structures of SMBIOS that systemd-stub measures, and RTMR1 to RTMR3, is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from privml.base.errors import EvidenceError
from privml.base.sizes import MAX_VCPUS
from privml.base.strictjson import Fields, b64
from privml.events.agent import AgentEvent
from privml.events.event import Event, Evidence
from privml.events.registers import DIGEST_SIZE, RTMR0
from privml.measure.eventlist import EventList
from privml.measure.payload import started
from privml.measure.predict import add_agent_events
from privml.measure.profiles import TD_GCE
from privml.measure.uki import UkiFacts

MAX_EVENTS = 64
MAX_SMBIOS = 8192
_MAX_MEMORY = 1 << 52


@dataclass(frozen=True)
class LearntEvent:
    """One extend of RTMR0 that the machine shows whatever it boots: ``what`` is its meaning, ``seen`` on how many of
    the ``compared`` machines it was the same."""

    type: int
    digest: bytes
    what: str
    seen: int
    compared: int

    def event(self) -> Event:
        """The predicted event."""
        note = f"the same on {self.seen} of {self.compared} captured machines"
        return Event(RTMR0, self.type, self.digest, f"machine: {self.what}", Evidence.LEARNT, note)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "type": self.type,
            "digest": self.digest.hex(),
            "what": self.what,
            "seen": self.seen,
            "compared": self.compared,
        }

    @classmethod
    def from_dict(cls, value: object, path: str) -> LearntEvent:
        """The inverse of ``to_dict``; ``EvidenceError``."""
        fields = Fields(value, path)
        event = cls(
            fields.integer("type", high=0xFFFFFFFF),
            fields.hexadecimal("digest", DIGEST_SIZE),
            fields.text("what", limit=200),
            fields.integer("seen", low=1, high=64),
            fields.integer("compared", low=1, high=64),
        )
        fields.end()
        if event.seen > event.compared:
            raise EvidenceError(f"{path}.seen: {event.seen} of {event.compared} machines")
        return event


@dataclass(frozen=True)
class LearntMachine:
    """One captured machine: its size, MRTD and ``events``; ``capture`` is the SHA-256 of the capture.

    ``smbios`` has the structures that systemd-stub measures, with the machine's own serial number and UUID.
    """

    vcpus: int
    memory: int
    mrtd: bytes
    smbios: bytes
    capture: bytes
    events: tuple[LearntEvent, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "vcpus": self.vcpus,
            "memory": self.memory,
            "mrtd": self.mrtd.hex(),
            "smbios": b64(self.smbios),
            "capture": self.capture.hex(),
            "events": [event.to_dict() for event in self.events],
        }

    @classmethod
    def from_dict(cls, value: object, path: str) -> LearntMachine:
        """The inverse of ``to_dict``; ``EvidenceError``."""
        fields = Fields(value, path)
        machine = cls(
            fields.integer("vcpus", low=1, high=MAX_VCPUS),
            fields.integer("memory", low=1, high=_MAX_MEMORY),
            fields.hexadecimal("mrtd", DIGEST_SIZE),
            fields.base64("smbios", limit=MAX_SMBIOS),
            fields.hexadecimal("capture", 32),
            tuple(
                LearntEvent.from_dict(item, f"{path}.events[{index}]")
                for index, item in enumerate(fields.array("events", limit=MAX_EVENTS))
            ),
        )
        fields.end()
        if not machine.events:
            raise EvidenceError(f"{path}.events: empty, expected the machine's part of RTMR0")
        return machine


def predict_on(
    machine: LearntMachine,
    separators: tuple[int, int],
    payload: UkiFacts,
    gpt_event: bytes,
    *,
    agent_events: Iterable[AgentEvent] = (),
    origins: Mapping[str, str] | None = None,
) -> tuple[Event, ...]:
    """The events of a boot of ``payload`` from a disk with the partition table ``gpt_event`` on ``machine``.

    ``separators`` are how many its firmware puts into RTMR0 and RTMR1 when the boot option starts.
    """
    events = EventList(replace(TD_GCE, separators=separators), origins)
    started(events, payload, machine.smbios, gpt_event=gpt_event)
    add_agent_events(events, agent_events)
    return (*(one.event() for one in machine.events), *events.rows)
