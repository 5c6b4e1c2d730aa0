"""How often, and how long after its end, something is started again in one boot."""

from __future__ import annotations

import time
from collections.abc import Callable

_HOUR = 3600.0
ATTESTOR = 3
"""Restarts of the attestor in one boot. systemd makes them: `StartLimitBurst` of its unit is one more."""


def since_boot() -> float:
    """Seconds since the kernel started, time asleep included. No host can set this clock of a TD back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Restarts:
    """Restarts of the engine: ``boot`` in all and ``hour`` in each hour, ``first`` to ``longest`` seconds apart.

    An engine that exits again and again is a fault of the machine, or of a caller who knows how to end it.
    """

    def __init__(
        self,
        *,
        hour: int = 5,
        boot: int = 10,
        first: float = 1.0,
        longest: float = 60.0,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._hour = hour
        self._boot = boot
        self._first = first
        self._longest = longest
        self._clock = clock
        self._made: list[float] = []

    @property
    def used_up(self) -> str:
        """Why there is no other restart; empty if there is one."""
        now = self._clock()
        if len(self._made) >= self._boot:
            return f"{self._boot} restarts since the boot"
        if sum(now - then < _HOUR for then in self._made) >= self._hour:
            return f"{self._hour} restarts within an hour"
        return ""

    def next(self) -> float:
        """Count a restart, and say how many seconds to wait before it: each time twice as long."""
        assert not self.used_up
        self._made.append(self._clock())
        return min(self._longest, self._first * 2.0 ** (len(self._made) - 1))
