"""Run a process and its children with a different host name and user; the host is not changed.

Root becomes a real unprivileged user if one with subordinate ids exists (``uidmap``), else root of a user namespace
with shifted ids. Other users become root of a user namespace with their own ids. See user_namespaces(7), subuid(5),
newuidmap(1).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import run

_NEWNS, _NEWUTS, _NEWUSER = 0x00020000, 0x04000000, 0x10000000
FIRST_ID = 1_000_000
IDS = 65_536
# Values of a leg's user, besides the caller ("") and "UID:GID".
MAPPED, OWN_RANGE = "mapped", "own-range"


@dataclass(frozen=True)
class Account:
    """A user with subordinate ids: first id and size of the range, for users and groups."""

    uid: int
    gid: int
    users: tuple[int, int]
    groups: tuple[int, int]


def account(uid: int, etc: Path = Path("/etc")) -> Account | None:
    """The account of ``uid`` if it has a range of subordinate ids and ``newuidmap`` is installed."""
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    users, groups = (_range(etc / name, entry) for name in ("subuid", "subgid"))
    return Account(uid, entry.pw_gid, users, groups) if users and groups else None


def unprivileged_account(etc: Path = Path("/etc")) -> Account | None:
    """The first account in ``subuid`` other than root with a range of subordinate ids."""
    for name, *_ in _rows(etc / "subuid"):
        try:
            uid = int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        if uid and (found := account(uid, etc)) is not None:
            return found
    return None


def _range(path: Path, entry: pwd.struct_passwd) -> tuple[int, int] | None:
    for name, first, count in _rows(path):
        if name in (entry.pw_name, str(entry.pw_uid)) and int(count) >= IDS:
            return int(first), int(count)
    return None


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    rows = [line.strip().split(":") for line in path.read_text().splitlines()]
    return [row for row in rows if len(row) == 3 and row[1].isdigit() and row[2].isdigit()]


def enter(host_name: str | None, user: str) -> int | None:
    """Fork and continue in a child with a different host name and user (see ``MAPPED``, ``OWN_RANGE``, ``UID:GID``).

    Returns None in the child; the parent waits and returns the child's exit status.
    """
    if host_name is None and not user:
        return None
    mapped = user in (MAPPED, OWN_RANGE)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _unshare(_NEWUTS | (_NEWUSER | _NEWNS if mapped else 0))
        os.write(ready[1], b"1")
        if os.read(go[0], 1) != b"1":
            os._exit(1)
        if host_name is not None:
            socket.sethostname(host_name)
        if user:
            uid, gid = (0, 0) if mapped else map(int, user.split(":"))
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        return None
    os.close(ready[1])
    os.close(go[0])
    if os.read(ready[0], 1) == b"1":
        if mapped:
            (_map_own if user == OWN_RANGE else _map_others)(child)
        os.write(go[1], b"1")
    os.close(go[1])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _map_others(child: int) -> None:
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{name}").write_text(f"0 {FIRST_ID} {IDS}\n")


def _map_own(child: int) -> None:
    """Map the caller to root and the rest to its ids from subuid(5)."""
    own = account(os.getuid())
    if own is None:
        raise HostError(
            f"user {os.getuid()} has no subordinate ids", hint="see /etc/subuid, /etc/subgid; install uidmap"
        )
    for tool, mine, ids in (("newuidmap", os.getuid(), own.users), ("newgidmap", os.getgid(), own.groups)):
        run([tool, str(child), "0", str(mine), "1", "1", str(ids[0]), str(IDS - 1)])


def _unshare(flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise HostError(f"unshare: {os.strerror(number)}", hint="`repro` needs namespaces that this machine refuses")


def id_map() -> str:
    """The uid map of this process, from the kernel."""
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return ", ".join(" ".join(row) for row in rows)
