"""When AMD's key distribution service may be asked: not soon after a failure, and seldom for what a stranger names.

A report that nobody signed can name any chip, and every chip is another route. So a carried document (of a guest that
anybody may be) gets a share that does not grow with the number of routes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from privml.base.errors import HostError

RETRY = 60
"""Seconds without a request after a failure: of the same route, or of any if the service did not answer."""
PER_MINUTE = 6
"""Certificates of chips that are asked for in a minute on behalf of carried documents, all together."""
_MINUTE = 60
_MAX_FAILED = 1000


class LimitError(HostError):
    """The service is not asked now."""


class Limit:
    """Says what may be asked for at a time (``now``, Unix seconds). Any thread may call it."""

    def __init__(self) -> None:
        self._failed: dict[str, float] = {}
        self._unanswered = float("-inf")
        self._leaves: deque[float] = deque(maxlen=PER_MINUTE)
        self._carried = threading.Lock()

    def holds(self, route: str, now: float) -> bool:
        """True if ``route``, or the whole service, failed within the last `RETRY` seconds."""
        return any(0 <= now - at < RETRY for at in (self._unanswered, self._failed.get(route, float("-inf"))))

    def note_failure(self, route: str, now: float, *, answered: bool) -> None:
        """Remember that ``route`` failed; without an answer, no other route is asked for, either."""
        if not answered:
            self._unanswered = now
        # A report says what is asked for, so only the newest are remembered.
        self._failed.pop(route, None)
        self._failed[route] = now
        while len(self._failed) > _MAX_FAILED:
            self._failed.pop(next(iter(self._failed)), None)

    @contextmanager
    def turn(self, *, leaf: bool, carried: bool, now: float) -> Iterator[None]:
        """Hold one request; `LimitError` at once if a ``carried`` document may not make it.

        One request for carried documents runs at a time, so a slow service holds up one of their verdicts and not
        all. Of certificates of chips (``leaf``) there are `PER_MINUTE`.
        """
        if not carried:
            yield
            return
        if not self._carried.acquire(blocking=False):
            raise LimitError("not asked for: another request to the service is under way")
        try:
            if leaf:
                self._count(now)
            yield
        finally:
            self._carried.release()

    def _count(self, now: float) -> None:
        if len(self._leaves) == PER_MINUTE and 0 <= now - self._leaves[0] < _MINUTE:
            raise LimitError(
                f"not asked for: {PER_MINUTE} certificates of chips were, within a minute",
                hint="`privml-build collateral fetch` keeps the certificates of chips that you expect",
            )
        self._leaves.append(now)
