"""Challenges: nonces that a broker gave out, each good for one document. They are in memory only.

After a restart there are none, so whoever waits asks again.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from privml.channel.release import NONCE_SIZE

SECONDS = 120
FROM_ONE = 64
IN_ALL = 10_000


class Challenges:
    """Nonces that are open, from the oldest. ``clock`` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._of: Counter[str] = Counter()

    def new(self, address: str) -> bytes | None:
        """A fresh nonce for ``address``; None if it has too many open, or all together have."""
        source = network(address)
        with self._lock:
            self._drop_old()
            if self._of[source] >= FROM_ONE or len(self._open) >= IN_ALL:
                return None
            nonce = secrets.token_bytes(NONCE_SIZE)
            self._open[nonce] = (self._clock() + SECONDS, source)
            self._of[source] += 1
            return nonce

    def take(self, nonce: bytes) -> bool:
        """True once for a nonce that is open; it is used up."""
        with self._lock:
            self._drop_old()
            return self._remove(nonce)

    def _drop_old(self) -> None:
        now = self._clock()
        while self._open:
            nonce, (end, _) = next(iter(self._open.items()))
            if now < end:
                return
            self._remove(nonce)

    def _remove(self, nonce: bytes) -> bool:
        found = self._open.pop(nonce, None)
        if found is None:
            return False
        self._of[found[1]] -= 1
        if not self._of[found[1]]:
            del self._of[found[1]]
        return True


def network(address: str) -> str:
    """What counts as one address: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
