"""How long a caller may keep this machine waiting, by the bytes that move in the meantime."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A budget of seconds: waiting spends it, and each ``rate`` bytes that move give a second back, up to ``grace``.

    A caller that is slower than ``rate`` bytes a second is cut off once the grace is spent, however long it has been
    served before. Only time spent waiting for the caller counts.
    """

    def __init__(self, grace: float, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace = self._left = grace
        self._rate = rate
        self._clock = clock
        self._since = 0.0

    @property
    def left(self) -> float:
        """The seconds that the next wait may take; ``TimeoutError`` when there are none."""
        if self._left <= 0:
            raise TimeoutError("the caller is too slow")
        return self._left

    def waiting(self) -> None:
        """A wait for the caller begins."""
        self._since = self._clock()

    def moved(self, count: int) -> None:
        """The wait is over: ``count`` bytes moved."""
        spent = self._clock() - self._since
        self._left = min(self._grace, self._left - spent + count / self._rate)
