"""How many refusals of one machine are logged, so that nobody fills a broker's log with one genuine machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

PER_MACHINE = 64
"""Refusals of one machine that are logged in an hour."""
SECONDS = 3600.0
MACHINES = 4096
"""Machines that are counted one by one; all others in that hour share one count."""


@dataclass
class RefusalLimit:
    """Counts refusals by machine in memory; ``clock`` gives seconds. Its caller makes one call at a time."""

    clock: Callable[[], float]
    _since: float = 0.0
    _counts: dict[bytes, int] = field(default_factory=dict)

    def admits(self, machine: bytes) -> bool:
        """True if one more refusal of this machine is to be logged."""
        now = self.clock()
        if not 0 <= now - self._since < SECONDS:
            self._since = now
            self._counts.clear()
        if machine not in self._counts and len(self._counts) >= MACHINES:
            machine = b""
        self._counts[machine] = self._counts.get(machine, 0) + 1
        return self._counts[machine] <= PER_MACHINE

    @property
    def unlogged(self) -> int:
        """Refusals of this hour that were not to be logged."""
        return sum(max(0, count - PER_MACHINE) for count in self._counts.values())
