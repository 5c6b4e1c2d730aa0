"""Which requests the engine was answering when it exited: the same request is not sent to it again.

Nobody can say which of them ended it, so all are refused. Only digests are kept, in this process's memory and under a
key of its own: they say nothing of a prompt to others.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from privml.agent import vital
from privml.base.errors import PrivmlError

CODE = "request-ended-engine"
_INTERVAL = 0.25
_SERVER_ERROR = 500


class Running:
    """A request that the engine answers, until `Endings.end`. One that is ``answered`` did not end the engine."""

    def __init__(self, digest: bytes, *, answered: bool = False) -> None:
        self.digest = digest
        self.answered = answered

    def pieces(self, status: int, made: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of its answer; it is answered once the last one was made, unless the engine said it failed."""
        yield from made
        self.answered = status < _SERVER_ERROR


class Endings:
    """The digests of requests that were running when the engine exited, at most ``limit``, the last ones.

    ``restarts`` is how often the engine was started again, as the boot process says. A request that was not answered
    to its end counts as running for ``window`` seconds more: its connection breaks before the boot process looks.
    """

    def __init__(
        self,
        restarts: Callable[[], int],
        *,
        limit: int = 1024,
        window: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._restarts = restarts
        self._limit = limit
        self._window = window
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._seen = restarts()
        self._running: set[Running] = set()
        self._broken: deque[tuple[float, bytes]] = deque(maxlen=limit)
        self._ended: dict[bytes, None] = {}

    def begin(self, path: str, body: bytes) -> Running:
        """A request, before it is sent to the engine; `EndedEngineError` if the engine exited over the same one.

        Requests without a body are all alike, and are not counted.
        """
        if not body:
            return Running(b"", answered=True)
        digest = hashlib.blake2b(path.encode() + b"\0" + body, key=self._key, digest_size=32).digest()
        with self._lock:
            if digest in self._ended:
                raise EndedEngineError(
                    "the engine exited while it answered this request, so this machine does not send it again"
                )
            running = Running(digest)
            self._running.add(running)
        return running

    def end(self, running: Running) -> None:
        """The request is over."""
        with self._lock:
            self._running.discard(running)
            if not running.answered:
                self._broken.append((self._clock(), running.digest))

    def look(self) -> None:
        """Note the running requests if the engine was started again since the last look."""
        restarts = self._restarts()
        with self._lock:
            if restarts <= self._seen:
                return
            self._seen = restarts
            since = self._clock() - self._window
            found = [digest for ended, digest in self._broken if ended >= since]
            found += [running.digest for running in self._running]
            self._broken.clear()
            self._ended |= dict.fromkeys(found)
            for oldest in list(self._ended)[: -self._limit]:
                del self._ended[oldest]

    def watch(self) -> None:
        """Look again and again, in a thread of its own."""
        vital.begin("server", self._watch)

    def _watch(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            self.look()


class EndedEngineError(PrivmlError):
    """The engine exited while it answered the same request."""
