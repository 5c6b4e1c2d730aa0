"""The private keys of a gateway: made, replaced and dropped by time only.

A generation has one key for each KEM. It is offered for ``rotate`` seconds, opens what is still on its way for
``grace`` seconds more, and is dropped. ``grace`` is shorter than ``rotate``, so at most two generations are alive: at
most two keys of each KEM. Load never makes keys, or a flood could drop the keys of honest callers.

Time is an argument, from a clock that only goes forward. Python cannot erase memory for certain: a dropped key is
unreachable, and its bytes may stay until the memory is used again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from privml.channel.kem import Kem, PrivateKey
from privml.channel.keyconfig import KeyConfig
from privml.channel.replay import PLACES, ReplaySet

ROTATE_SECONDS = 3600.0
GRACE_SECONDS = 600.0


@dataclass(frozen=True)
class GatewayKey:
    """A private key with its configuration and the requests of its generation that were acted on."""

    config: KeyConfig
    private: PrivateKey
    opened: ReplaySet


@dataclass(frozen=True)
class _Generation:
    made: float
    keys: tuple[GatewayKey, ...]


class KeyRing:
    """The one or two generations that are alive."""

    def __init__(
        self,
        kems: Sequence[Kem],
        *,
        now: float,
        rotate: float = ROTATE_SECONDS,
        grace: float = GRACE_SECONDS,
        places: int = PLACES,
    ) -> None:
        if not kems or len(set(kems)) != len(kems):
            raise ValueError(f"{len(kems)} KEMs, expected at least one, each once")
        if not 0 <= grace < rotate:
            raise ValueError(f"grace {grace} s, expected 0 to less than {rotate} s")
        self._kems, self._rotate, self._grace, self._places = tuple(kems), rotate, grace, places
        self._now = now
        self._alive: tuple[_Generation, ...] = (self._generation(now, set()),)
        self.serial = max(1, int(now))
        """The number of the newest generation. It grows with each, and also from one process of a boot to the next,
        because it is never behind the clock's seconds and generations are made less often."""

    def advance(self, now: float) -> bool:
        """Drop and make what is due at ``now``; True if there is a new generation, whose record must be signed."""
        if now < self._now:
            raise ValueError(f"time {now}, expected at least {self._now}")
        self._now = now
        before = {key.config.key_id for key in self.alive}
        self._alive = tuple(one for one in self._alive if now < one.made + self._rotate + self._grace)
        if self._alive and now < self._alive[-1].made + self._rotate:
            return False
        self._alive = (*self._alive, self._generation(now, before))
        self.serial = max(self.serial + 1, int(now))
        return True

    @property
    def next_change(self) -> float:
        """When `advance` has to be called at the latest, for keys to be dropped in time."""
        newest = self._alive[-1].made + self._rotate
        return min([newest, *(one.made + self._rotate + self._grace for one in self._alive)])

    @property
    def configs(self) -> tuple[KeyConfig, ...]:
        """What the newest generation offers, in the order of preference."""
        return tuple(key.config for key in self._alive[-1].keys)

    @property
    def alive(self) -> tuple[GatewayKey, ...]:
        """Every key that still opens requests."""
        return tuple(key for one in self._alive for key in one.keys)

    def find(self, key_id: int) -> GatewayKey | None:
        """The key that is alive under this identifier, as of the last `advance`."""
        return next((key for key in self.alive if key.config.key_id == key_id), None)

    def _generation(self, now: float, taken: set[int]) -> _Generation:
        """New keys with identifiers that are not ``taken``, so that a late request meets no other key."""
        opened = ReplaySet(self._places)
        keys = []
        for kem in self._kems:
            private = kem.generate()
            while (key_id := hashlib.sha256(private.public).digest()[0]) in taken:
                private = kem.generate()
            taken.add(key_id)
            keys.append(GatewayKey(KeyConfig.of(key_id, kem, private.public), private, opened))
        return _Generation(now, tuple(keys))
