"""The set of requests that a gateway acted on, for one generation of keys, in a fixed amount of memory.

A request is known by its encapsulated key, which a sender makes afresh each time. The set is a table of 64-bit keyed
hashes: 2^19 places, of which half are used at most, so 4 MiB. The hash's key is random, so nobody can make two
requests collide or probes long; by chance a fresh request is refused as a repetition once in 2^46.

The set is never emptied: it goes with its key, after which nothing opens a repetition anyway. Until then a full set
refuses every further request, as a service that is overloaded does.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from threading import Lock

from privml.base.errors import Refused

PLACES = 2**19
_WORD = 8


class Replayed(Refused):
    """This request was acted on before; the answer is 400 with the name ``replay``."""

    def __init__(self) -> None:
        super().__init__("request: was opened before", hint="seal the request again")


class SetFull(Refused):
    """As many requests as fit were acted on since the keys were made; the answer is 503."""

    def __init__(self) -> None:
        super().__init__("request: the key has opened as many as it can", hint="try again later")


class ReplaySet:
    """The requests of one generation of keys that were acted on. Calls may come from several threads."""

    def __init__(self, places: int = PLACES) -> None:
        if places < 2 or places & (places - 1):
            raise ValueError(f"{places} places, expected a power of two")
        self.capacity = places // 2
        self._mask = places - 1
        self._table = array("Q", [0]) * places  # exactly so many; from bytes it would be larger
        self._count = 0
        self._key = os.urandom(32)
        self._lock = Lock()

    @property
    def size(self) -> int:
        """The table's bytes; they never change."""
        return len(self._table) * self._table.itemsize

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """True when every further request is refused."""
        return self._count >= self.capacity

    def add(self, encapsulated: bytes) -> None:
        """Remember a request; ``Replayed`` if it is known, ``SetFull`` if there is no room."""
        digest = hashlib.blake2b(encapsulated, key=self._key, digest_size=_WORD).digest()
        word = int.from_bytes(digest, "big") or 1  # zero marks a free place
        with self._lock:
            place = word & self._mask
            while (found := self._table[place]) != 0:
                if found == word:
                    raise Replayed
                place = (place + 1) & self._mask
            if self.full:
                raise SetFull
            self._table[place] = word
            self._count += 1
