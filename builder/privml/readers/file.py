"""A third-party file that was read and identified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privml.events.event import Event
from privml.measure.description import Description

if TYPE_CHECKING:  # a firmware or an image needs none of these, and loading them takes longer than measuring it
    from privml.events.logged import LoggedEvent
    from privml.evidence.capture import Capture
    from privml.readers.log import Log
    from privml.statement.launch import MeasuredLaunch


@dataclass(frozen=True)
class File:
    """A file that was read: its description, and the parts that can be compared.

    A log has ``log``, a prediction ``shapes``, a quote or TDREPORT ``claimed`` registers, and a quote its bytes. A
    capture, and JSON that holds a log with its quote, have both. ``report`` are the bytes of an SNP guest's report.
    """

    path: Path
    description: Description
    log: Log | None = None
    shapes: tuple[MeasuredLaunch, ...] = ()
    claimed: dict[str, bytes] | None = None
    quote: bytes | None = None
    capture: Capture | None = None
    report: bytes | None = None

    def items(self) -> tuple[Event, ...] | tuple[LoggedEvent, ...]:
        """The events for comparisons: a log's extends with their data, else the described events."""
        return self.log.logged if self.log is not None else self.description.events
