"""Describe a third-party file and what it measures to, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from privml.events.event import Event, Evidence
from privml.events.registers import RTMR1
from privml.events.types import EV_EFI_BOOT_SERVICES_APPLICATION


class Record(Protocol):
    """A log record without a SHA-384 digest, which is therefore not a TD's event."""

    @property
    def index(self) -> int:
        """PCR or MrIndex."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        ...

    def text(self) -> str:
        """Return one line for a person."""
        ...


@dataclass(frozen=True)
class Description:
    """What a file is and what it measures to; ``kind`` is a word for programs, ``title`` a line for a person.

    ``mrtd`` maps a page order (``single_pass``, ``two_pass``), or ``mrtd`` for a value that was read, to 48 bytes.
    ``registers`` are whole values; ``events`` are extends, of which there may be some without a whole register.
    ``records`` are a log's that has no SHA-384 digests, so that no register can be computed from it.
    ``facts`` are named values, ``notes`` say what the file alone does not show.
    """

    kind: str
    title: str
    mrtd: dict[str, bytes] = field(default_factory=dict)
    registers: dict[str, bytes] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    records: Sequence[Record] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``measure FILE --json``."""
        result: dict[str, Any] = {"kind": self.kind, "title": self.title}
        if "mrtd" in self.mrtd:
            result["mrtd"] = self.mrtd["mrtd"].hex()
        elif self.mrtd:
            result["mrtd"] = {order: value.hex() for order, value in self.mrtd.items()}
        result.update({register: value.hex() for register, value in self.registers.items()})
        result["events"] = [event.to_dict() for event in self.events]
        if self.records:
            result["records"] = [record.to_dict() for record in self.records]
        return {**result, "facts": self.facts, "notes": list(self.notes)}


def one_event(
    register: str, kind: int, digest: bytes, origin: str, *, level: Evidence = Evidence.HARDWARE, note: str = ""
) -> Event:
    """An extend of ``register``; its evidence is a real TD's log unless ``level`` says otherwise."""
    return Event(register, kind, digest, origin, level, note)


def image_event(digest: bytes, origin: str, note: str = "") -> Event:
    """The extend of an image that firmware loads: ``digest`` is its Authenticode SHA-384."""
    return one_event(RTMR1, EV_EFI_BOOT_SERVICES_APPLICATION, digest, origin, note=note)
