"""Which connections are served, so that no caller and no flood keeps the others out.

There is room for a fixed number of connections. Requests to the engine and the services can occupy only a part of it
(`routes`); the rest is a reserve for attestation, health and stages. A connection keeps its place only while its
request holds a share: one of the requests to the engine and the services, or one of its address's attestation
documents. When all room is taken, a new connection takes the place of one that waits for its next request, the
longest first; else of one with a request without a share, the oldest first; else of one whose handshake has taken a
second. One address may have only so many handshakes, and so many attestation documents, in progress.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from privml.base.peers import group

RESERVE = 1024
"""Connections besides those of requests to the engine and the services."""
YOUNG = 1.0
"""Seconds for which a handshake cannot lose its place to another connection."""
FIRST = 1.0
"""Seconds that a server which ends waits for the first request of connections that have had none."""

Refusal = Literal["address", "full"]
State = Literal["handshake", "idle", "asking", "busy"]


def shared(concurrency: int) -> int:
    """How many requests to the engine and the services may be open at a time: being read, answered or refused."""
    return concurrency + 16


class Places:
    """At most ``limit`` of something at a time, for whoever enters and leaves. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Take a place; False if there is none."""
        with self._lock:
            if self._taken >= self._limit:
                return False
            self._taken += 1
        return True

    def leave(self) -> None:
        """Give a place back. ValueError if none is taken: that would raise the limit for ever."""
        with self._lock:
            if not self._taken:
                raise ValueError("a place was given back that nobody had")
            self._taken -= 1


class PerAddress:
    """At most ``limit`` of something at a time for each address; 0: no limit. Thread-safe.

    The empty address, of what no connection carries by itself, has no limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Take one; False if the address has as many as it may."""
        if not self._limit or not address:
            return True
        with self._lock:
            if self._held[address] >= self._limit:
                return False
            self._held[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Give one back."""
        if not self._limit or not address:
            return
        with self._lock:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]  # nothing of an address stays


class Slot:
    """The place of one connection. ``cut`` ends the connection, from another thread.

    ``asked`` is True once it has had a request.
    """

    def __init__(self, room: Admission, address: str, cut: Callable[[], None], since: float) -> None:
        self._room = room
        self.address = address
        self.cut = cut
        self.state: State = "handshake"
        self.since = since
        self.asked = False

    def idle(self) -> None:
        """The connection waits for a request: it may lose its place, and `settle` ends it."""
        self._room.change(self, "idle")

    def asking(self) -> None:
        """The connection has a request without a share: it may lose its place."""
        self._room.change(self, "asking")

    def busy(self) -> bool:
        """The connection's request holds a share: it keeps its place. False if it has lost that already."""
        return self._room.change(self, "busy")

    def leave(self) -> None:
        """The connection has ended."""
        self._room.leave(self)

    @property
    def closing(self) -> bool:
        """True when the connection's current request is its last."""
        return self._room.closing


class Admission:
    """The room for connections: ``shared`` for requests to engine and services, and the reserve. Thread-safe.

    ``closing`` is True once `settle` was called.
    """

    def __init__(
        self,
        concurrency: int,
        per_address: int,
        *,
        reserve: int = RESERVE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room = shared(concurrency) + reserve
        self._handshakes = PerAddress(per_address)
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # In the order in which they came into their state.
        self._slots: dict[State, dict[Slot, None]] = {state: {} for state in get_args(State)}
        self.closing = False

    def admit(self, address: str, cut: Callable[[], None]) -> Slot | Refusal:
        """A place for a new connection, or why there is none. ``cut`` must not block."""
        key = group(address)
        if not self._handshakes.enter(key):
            return "address"
        with self._changed:
            victim = None
            if sum(map(len, self._slots.values())) >= self._room:
                victim = self._loser()
                if victim is None:
                    self._handshakes.leave(key)
                    return "full"
                self._remove(victim)
            slot = Slot(self, key, cut, self._clock())
            self._slots["handshake"][slot] = None
        if victim is not None:
            victim.cut()
        return slot

    def change(self, slot: Slot, state: State) -> bool:
        """Move ``slot`` to another state; False if it has lost its place."""
        with self._lock:
            if slot not in self._slots[slot.state]:
                return False
            self._remove(slot)
            slot.state = state
            slot.asked = slot.asked or state in ("asking", "busy")
            self._slots[state][slot] = None
            if self.closing:
                self._changed.notify_all()
            return True

    def leave(self, slot: Slot) -> None:
        """Free the place of ``slot``, if it still has one."""
        with self._changed:
            if slot in self._slots[slot.state]:
                self._remove(slot)
                if self.closing:
                    self._changed.notify_all()

    def settle(self, seconds: float) -> bool:
        """End the connections that wait for a request; True once none has one, False after ``seconds``.

        New ones are still admitted, for one request each, and one that has had no request yet is like a new one: for
        `FIRST` seconds of ``seconds`` it may still begin one.
        """
        with self._changed:
            self.closing = True
            begun = self._clock()
            self._cut(slot for slot in self._slots["idle"] if slot.asked)
            self._changed.wait_for(self._all_asked, min(FIRST, seconds))
            self._cut(self._slots["idle"])
            left = max(0.0, seconds - (self._clock() - begun))
            return self._changed.wait_for(lambda: not (self._slots["asking"] or self._slots["busy"]), left)

    def _all_asked(self) -> bool:
        return not self._slots["handshake"] and all(slot.asked for slot in self._slots["idle"])

    def _cut(self, slots: Iterable[Slot]) -> None:
        for slot in list(slots):
            self._remove(slot)  # first: a request that has just arrived must not begin
            slot.cut()

    def _remove(self, slot: Slot) -> None:
        del self._slots[slot.state][slot]
        if slot.state == "handshake":
            self._handshakes.leave(slot.address)

    def _loser(self) -> Slot | None:
        for slot in (*self._slots["idle"], *self._slots["asking"]):
            return slot
        for slot in self._slots["handshake"]:
            return slot if self._clock() - slot.since >= YOUNG else None
        return None
