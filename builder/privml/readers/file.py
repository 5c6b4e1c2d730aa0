"""A third-party file as it was read."""

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
    """A file that was read: what it is, and what of it can be compared.

    A log has ``log``, a prediction ``shapes``, a quote or report ``claimed`` registers. A capture, and JSON
    that holds a log with its quote, have both.
    """

    path: Path
    description: Description
    log: Log | None = None
    shapes: tuple[MeasuredLaunch, ...] = ()
    claimed: dict[str, bytes] | None = None
    capture: Capture | None = None

    def items(self) -> tuple[Event, ...] | tuple[LoggedEvent, ...]:
        """The events to compare the file by: a log's extends with their data, else those that were described."""
        return self.log.logged if self.log is not None else self.description.events
