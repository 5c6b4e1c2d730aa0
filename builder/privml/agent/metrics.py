"""Counts for an operator, as of the last whole minute, in Prometheus' text format 0.0.4.

Every name and label is in `FAMILIES`: nothing that a caller, an engine or a service sent can become one. Counts
change once a minute, so that no single request can be seen in them as it happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

BUCKET = 60.0
"""Seconds between two changes of what is shown."""
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

CONNECTIONS = "privml_connections_total"
REQUESTS = "privml_requests_total"
OUTCOMES = ("accepted", "refused-address", "refused-full", "no-tls")
KINDS = ("inference", "service", "sealed", "attestation", "other")
CLASSES = ("2xx", "3xx", "4xx", "429", "5xx", "503")
FAMILIES: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    CONNECTIONS: ("Connections, by what became of them.", {"outcome": OUTCOMES}),
    REQUESTS: ("Requests, by what was asked for and the status of the answer.", {"kind": KINDS, "status": CLASSES}),
}
"""Name of each counter: its meaning, and the values that each label may have."""


def class_of(status: int) -> str:
    """The label of a status: its class, or the status itself for those that tell a caller to come back."""
    found = next((each for each in (str(status), f"{status // 100}xx") if each in CLASSES), None)
    return found or CLASSES[-2]  # HTTP has no other: what an engine made up is its failure


class Metrics:
    """The counters of `FAMILIES`. Thread-safe. ``clock`` must not jump."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._bucket = 0
        self._counts: dict[tuple[str, tuple[str, ...]], int] = {}
        for name, (_, labels) in FAMILIES.items():
            rows: list[tuple[str, ...]] = [()]
            for values in labels.values():
                rows = [(*row, value) for row in rows for value in values]
            self._counts |= {(name, row): 0 for row in rows}
        self._shown = dict(self._counts)

    def count(self, name: str, *labels: str) -> None:
        """Add one to a counter; ``KeyError`` for one that is not in `FAMILIES`."""
        with self._lock:
            self._turn()
            self._counts[name, labels] += 1

    def text(self) -> bytes:
        """The counters as of the end of the last whole minute since the server's start."""
        with self._lock:
            self._turn()
            shown, minutes = dict(self._shown), self._bucket
        lines = [
            "# HELP privml_minutes_total Whole minutes since the server started.",
            "# TYPE privml_minutes_total counter",
        ]
        lines.append(f"privml_minutes_total {minutes}")
        for name, (meaning, labels) in FAMILIES.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter"]
            for (family, values), number in shown.items():
                if family == name:
                    pairs = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
                    lines.append(f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}")
        return ("\n".join(lines) + "\n").encode("ascii")

    def _turn(self) -> None:
        """Show what was counted, if a minute has ended since."""
        bucket = int((self._clock() - self._start) / BUCKET)
        if bucket != self._bucket:
            self._bucket = bucket
            self._shown = dict(self._counts)
