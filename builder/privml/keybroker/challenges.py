"""Challenges: nonces that a broker gave out, each good for one document and 120 seconds.

A nonce is the time (8 bytes, big-endian seconds), 8 random bytes, and 16 bytes of an HMAC over both under a key of
this process. So asking for one takes no memory here, and nobody can use them up for others; after a restart none is
open, and whoever waits asks again. Remembered are used ones only: `Challenges.take` is for a document that was proven
to be a genuine platform's.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from privml.channel.release import NONCE_SIZE

SECONDS = 120
MAX_USED = 100_000
"""Used nonces that are remembered, more than one process can judge in the time. With so many, none is good."""
_TIME_SIZE = 8
_SALT_SIZE = 8
_BODY_SIZE = _TIME_SIZE + _SALT_SIZE


class Challenges:
    """The nonces of one process. ``clock`` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._used: OrderedDict[bytes, int] = OrderedDict()

    def new(self) -> bytes:
        """A fresh nonce."""
        body = int(self._clock()).to_bytes(_TIME_SIZE) + secrets.token_bytes(_SALT_SIZE)
        return body + self._tag(body)

    def open(self, nonce: bytes) -> bool:
        """True for a nonce of this process that is not too old and not used."""
        with self._lock:
            return self._is_open(nonce)

    def take(self, nonce: bytes) -> bool:
        """True once for a nonce that is open, which is then used."""
        with self._lock:
            if not self._is_open(nonce) or len(self._used) >= MAX_USED:
                return False
            self._used[nonce] = int(self._clock()) + SECONDS
            return True

    def give_back(self, nonce: bytes) -> None:
        """Open a nonce again that was taken for a request which got no final answer."""
        with self._lock:
            self._used.pop(nonce, None)

    def _is_open(self, nonce: bytes) -> bool:
        now = int(self._clock())
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        body, tag = nonce[:_BODY_SIZE], nonce[_BODY_SIZE:]
        genuine = hmac.compare_digest(tag, self._tag(body))
        return genuine and now - int.from_bytes(body[:_TIME_SIZE]) < SECONDS and nonce not in self._used

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[: NONCE_SIZE - _BODY_SIZE]
