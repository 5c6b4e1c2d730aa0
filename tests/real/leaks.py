"""Where a key could get to: the packets of the loopback interface, and the core dump of a process that crashes."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_ALL = 0x0003
_OUTGOING = 4  # each packet of the loopback interface is seen when it leaves and when it arrives
_BUFFER = 64 * 1024 * 1024
_SOL_PACKET, _STATISTICS = 263, 6
_IPV4, _TCP = 0x0800, 6


def shapes(secret: bytes) -> list[bytes]:
    """``secret`` as it could be written: raw, in hex, and inside base64 at each of the three offsets."""
    whole = []
    for offset in range(3):
        encoded = b64encode(bytes(offset) + secret)
        # The characters that depend on nothing but the secret.
        whole.append(encoded[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6])
    return [secret, secret.hex().encode(), *whole]


def has(data: bytes, secret: bytes) -> bool:
    """True if ``data`` has ``secret`` in one of its shapes."""
    return any(shape in data for shape in shapes(secret))


class Capture:
    """What went over the loopback interface from and to some ports, a stream of bytes for each direction."""

    def __init__(self) -> None:
        self.streams: dict[tuple[int, int], bytearray] = {}

    def has(self, secret: bytes) -> bool:
        """True if a stream has ``secret``."""
        return any(has(bytes(stream), secret) for stream in self.streams.values())

    def take(self, frame: bytes, ports: frozenset[int]) -> None:
        """Add the payload of one Ethernet frame."""
        packet = frame[14:]
        if len(packet) < 40 or struct.unpack_from("!H", frame, 12)[0] != _IPV4 or packet[9] != _TCP:
            return
        segment = packet[(packet[0] & 15) * 4 : struct.unpack_from("!H", packet, 2)[0]]
        source, target = struct.unpack_from("!HH", segment)
        if {source, target} & ports:
            self.streams.setdefault((source, target), bytearray()).extend(segment[(segment[12] >> 4) * 4 :])


@contextlib.contextmanager
def captured(*ports: int) -> Iterator[Capture]:
    """Capture what goes over the loopback interface by TCP from or to ``ports``; it is complete after the block.

    ``PermissionError`` where this process may not capture packets.
    """
    made, ended = Capture(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as wire:
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        wire.bind(("lo", 0))
        wire.settimeout(0.2)

        def read() -> None:
            while True:
                try:
                    frame, sender = wire.recvfrom(1 << 17)
                except TimeoutError:
                    if ended.is_set():
                        return
                    continue
                if sender[2] != _OUTGOING:
                    made.take(frame, frozenset(ports))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield made
        finally:
            ended.set()
            thread.join()
        _, dropped = struct.unpack("II", wire.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        assert dropped == 0, f"{dropped} packets were not seen"


def core_allowed() -> None:
    """Let this process leave a core dump of any size: for the child of a test, before its program starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE


def cores(folder: Path) -> list[Path]:
    """The core dumps of processes that ended in ``folder``."""
    return sorted(folder.glob("core*"))
