"""A software TPM with a SHA-384 bank, for boots whose registers are inspected.

swtpm serves one client, normally QEMU. QEMU stops it when it exits, but not when it is killed; a TPM started with
``keep`` then accepts another client and still has its registers.
Source: swtpm man page swtpm_ioctls(3); TCG TPM 2.0 Library part 3 section 22.4 (TPM2_PCR_Read).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from privml.base.errors import HostError
from privml.image.tools import Bind, ToolsTree
from privml.vm.process import Child
from privml.vm.unixsocket import connected

SOCKET = "tpm.sock"
_SET_DATA_FD = 0x10
_PCR_READ = 0x17E
_NO_SESSIONS = 0x8001
_SHA384 = 0x000C
_PCRS = 24
_AT_ONCE = 8
_HEADER = struct.Struct(">HII")
_TIMEOUT = 20


def start(tools: ToolsTree, directory: Path, *, keep: bool = False) -> Child:
    """Start a fresh TPM 2.0 in ``directory``; its control socket is ``directory/tpm.sock``.

    It stops with its client unless ``keep`` is true.
    """
    state = directory / "tpm"
    state.mkdir()
    binds = [Bind(directory, "/vm", writable=True)]
    tools.run(
        ["swtpm_setup", "--tpm2", "--tpm-state", "/vm/tpm", "--pcr-banks", "sha256,sha384", "--overwrite"],
        binds=binds,
        what="swtpm_setup",
    )
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=/vm/tpm", "--ctrl", f"type=unixio,path=/vm/{SOCKET}"]
    child = Child(tools, argv if keep else [*argv, "--terminate"], directory / "swtpm.log", binds=binds)
    child.await_path(directory / SOCKET)
    return child


def read_pcrs(control: Path) -> dict[int, bytes]:
    """PCR 0 to 23 of the SHA-384 bank, from a TPM left running by QEMU. ``HostError`` if it does not answer."""
    try:
        with connected(control, _TIMEOUT) as connection:
            ours, theirs = socket.socketpair()
            with ours:
                ours.settimeout(_TIMEOUT)
                with theirs:
                    socket.send_fds(connection, [struct.pack(">I", _SET_DATA_FD)], [theirs.fileno()])
                    (result,) = struct.unpack(">I", _exactly(connection, 4))
                if result:
                    raise HostError(f"swtpm: attaching to its data channel failed with {result:#x}")
                return _read_all(ours)
    except OSError as error:
        raise HostError(f"swtpm: {error}") from error


def _read_all(data: socket.socket) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for first in range(0, _PCRS, _AT_ONCE):
        selection = bytearray(3)
        selection[first // 8] = 0xFF
        body = struct.pack(">IHB", 1, _SHA384, len(selection)) + selection
        data.sendall(_HEADER.pack(_NO_SESSIONS, _HEADER.size + len(body), _PCR_READ) + body)
        _, size, code = _HEADER.unpack(_exactly(data, _HEADER.size))
        answer = _exactly(data, size - _HEADER.size)
        if code:
            raise HostError(f"swtpm: TPM2_PCR_Read failed with {code:#x}")
        for offset, value in enumerate(pcr_values(answer)):
            found[first + offset] = value
    return found


def pcr_values(answer: bytes) -> tuple[bytes, ...]:
    """The digests in the response of TPM2_PCR_Read; ``HostError`` unless they are eight of 48 bytes."""
    count = int.from_bytes(answer[14:18], "big")
    rows = [answer[18 + 50 * number : 68 + 50 * number] for number in range(_AT_ONCE)]
    if count != _AT_ONCE or any(len(row) != 50 or row[:2] != b"\0\x30" for row in rows):
        raise HostError(f"swtpm: got {count} registers, expected {_AT_ONCE} of 48 bytes")
    return tuple(row[2:] for row in rows)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        more = connection.recv(size - len(parts))
        if not more:
            raise HostError("swtpm: it closed the connection")
        parts += more
    return parts
