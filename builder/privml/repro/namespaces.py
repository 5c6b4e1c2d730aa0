"""Another host name and other ids for one process and its children, by namespaces; the host itself is not touched."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from privml.base.errors import HostError

_NEWNS, _NEWUTS, _NEWUSER = 0x00020000, 0x04000000, 0x10000000
FIRST_ID = 1_000_000
IDS = 65_536


def enter(host_name: str | None, *, other_user: bool) -> int | None:
    """Go on in a child with another host name (and with ids of its own, as that map's root); needs root.

    Gives None in the child. In the caller it waits and gives the child's exit status.
    """
    if host_name is None and not other_user:
        return None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _unshare(_NEWUTS | (_NEWUSER | _NEWNS if other_user else 0))
        os.write(ready[1], b"1")
        if os.read(go[0], 1) != b"1":
            os._exit(1)
        if other_user:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.setgroups([])
        if host_name is not None:
            socket.sethostname(host_name)
        return None
    os.close(ready[1])
    os.close(go[0])
    if os.read(ready[0], 1) == b"1":
        if other_user:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{child}/{name}").write_text(f"0 {FIRST_ID} {IDS}\n")
        os.write(go[1], b"1")
    os.close(go[1])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _unshare(flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise HostError(f"unshare: {os.strerror(number)}", hint="this machine has no namespaces for `repro`'s leg")


def id_map() -> str:
    """This process's map of ids, as the kernel tells it."""
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return ", ".join(" ".join(row) for row in rows)
