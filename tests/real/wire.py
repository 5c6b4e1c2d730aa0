"""The other end of a guest's network card: frames over QEMU's stream socket, and what IPv6 needs of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

_OURS = bytes.fromhex("525400abcdef")
_IPV6, _TCP, _ICMPV6 = 0x86DD, 6, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SYN_AND_ACK = 0x12


class Wire:
    """A unix socket at ``path`` that QEMU connects to; ``frames`` are all that the guest sent."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(30)
        self._connection: socket.socket | None = None
        self._left = b""
        self.frames: list[bytes] = []

    def close(self) -> None:
        """Close both sockets."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def receive(self, seconds: float) -> Iterator[bytes]:
        """Frames as they come, for at most ``seconds``."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            connection = self._connected()
            connection.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self._left += connection.recv(65536)
            while len(self._left) >= 4 and len(self._left) >= 4 + (size := int.from_bytes(self._left[:4], "big")):
                frame, self._left = self._left[4 : 4 + size], self._left[4 + size :]
                self.frames.append(frame)
                yield frame

    def send(self, frame: bytes) -> None:
        """Send one frame to the guest."""
        self._connected().sendall(struct.pack(">I", len(frame)) + frame)

    def _connected(self) -> socket.socket:
        if self._connection is None:
            self._connection = self._listener.accept()[0]
        return self._connection


def answers_on(wire: Wire, guest: str, port: int, *, own: str) -> bool:
    """Whether the machine ``guest`` takes a TCP connection to ``port`` from the address ``own``, over IPv6."""
    us, them = IPv6Address(own), IPv6Address(guest)
    target = them.packed
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int.from_bytes(target[-3:], "big"))
    ask = bytes([_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]) + target + b"\1\1" + _OURS
    wire.send(_frame(b"\x33\x33" + group.packed[-4:], us, group, _ICMPV6, ask))
    for frame in wire.receive(3):
        kind, body = _of(frame, them)
        if kind == _ICMPV6 and body[0] == _ADVERTISEMENT and body[8:24] == target:
            syn = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 64000, 0, 0)
            wire.send(_frame(frame[6:12], us, them, _TCP, syn))
        if kind == _TCP and body[:4] == struct.pack(">HH", port, 40000):
            return body[13] == _SYN_AND_ACK
    return False


def _of(frame: bytes, sender: IPv6Address) -> tuple[int, bytes]:
    """Protocol and content of an IPv6 packet from ``sender``; (0, b"") for anything else."""
    if len(frame) < 54 or frame[12:14] != _IPV6.to_bytes(2, "big") or frame[22:38] != sender.packed:
        return 0, b""
    return frame[20], frame[54:]


def _frame(to: bytes, source: IPv6Address, target: IPv6Address, protocol: int, body: bytes) -> bytes:
    addresses = source.packed + target.packed
    at = 16 if protocol == _TCP else 2
    total = _sum(addresses + struct.pack(">II", len(body), protocol) + body)
    body = body[:at] + total.to_bytes(2, "big") + body[at + 2 :]
    header = struct.pack(">IHBB", 6 << 28, len(body), protocol, 255) + addresses
    return to + _OURS + _IPV6.to_bytes(2, "big") + header + body


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
