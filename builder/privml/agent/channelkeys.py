"""The keys of this boot's sealed channel and the signed record that offers them. Thread-safe.

Keys are replaced by time only (`channel.keyring`), by a clock that the host cannot set back and that goes on while
the machine is suspended. They exist in this process only.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence

from privml.agent import identity
from privml.agent.layout import Layout
from privml.base.errors import HostError
from privml.channel.kem import Kem, usable
from privml.channel.keyconfig import encode_list
from privml.channel.keyring import GatewayKey, KeyRing
from privml.channel.record import Record
from privml.channel.replay import PLACES
from privml.evidence.sections import CHANNEL_KEY, Keys

_LONGEST_SLEEP = 60.0


def boottime() -> float:
    """Seconds since the start of the machine, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ChannelKeys:
    """The key ring of one boot, whose record is signed by the attested channel key.

    Each call first drops and makes what is due. `keep` does it also while nobody asks.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        kems: Sequence[Kem] | None = None,
        clock: Callable[[], float] = boottime,
        places: int = PLACES,
    ) -> None:
        section = identity.section(layout)
        key = identity.load_channel(layout)
        if Keys.decode(section).find(*CHANNEL_KEY) != key.public_key().public_bytes_raw():
            raise HostError("the channel key is not the one of the keys section")
        self._sign = key.sign
        self._keys_sha256 = hashlib.sha256(section).digest()
        self._clock = clock
        self._lock = threading.Lock()
        self._ring = KeyRing(usable() if kems is None else kems, now=clock(), places=places)
        self._record = self._signed()

    def record(self) -> bytes:
        """The signed record of the keys that are offered now."""
        with self._lock:
            self._advance()
            return self._record

    def offered(self) -> bytes:
        """The same keys as ``application/ohttp-keys``."""
        with self._lock:
            self._advance()
            return encode_list(self._ring.configs)

    def find(self, key_id: int) -> GatewayKey | None:
        """The key that is alive under this identifier."""
        with self._lock:
            self._advance()
            return self._ring.find(key_id)

    def alive(self) -> tuple[GatewayKey, ...]:
        """Every key that still opens requests."""
        with self._lock:
            self._advance()
            return self._ring.alive

    def keep(self) -> None:
        """Drop and make keys when they are due, forever."""
        while True:
            with self._lock:
                self._advance()
                left = self._ring.next_change - self._clock()
            time.sleep(min(max(left, 0.1), _LONGEST_SLEEP))

    def _advance(self) -> None:
        if self._ring.advance(self._clock()):
            self._record = self._signed()

    def _signed(self) -> bytes:
        return Record(self._ring.serial, self._keys_sha256, self._ring.configs).sign(self._sign)
