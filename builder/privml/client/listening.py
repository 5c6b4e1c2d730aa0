"""Sockets to serve on: ports of this machine, and Unix sockets that only this user can open."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from privml.base.errors import HostError, UsageError

_PATIENCE = 1.0
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def port_sockets(host: str, port: int) -> list[socket.socket]:
    """A socket for each address that ``host`` has here, bound to ``port`` (0: any). None of them listens yet.

    ``HostError`` if another program has the port, or it cannot be had for another reason.
    """
    made: list[socket.socket] = []
    missing = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                made.append(_bound(socket.socket(family, kind, protocol), address))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error  # a name may have an address that this machine has not, such as ::1
        if not made:
            raise missing
    except OSError as error:
        for one in made:
            one.close()
        raise HostError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="end what listens there, or choose another port with --listen",
        ) from error
    return made


@contextlib.contextmanager
def listening_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """The sockets of `port_sockets`, listening, until the end of the block; errors as there."""
    with contextlib.ExitStack() as closed:
        bound = [closed.enter_context(each) for each in port_sockets(host, port)]
        for each in bound:
            each.listen()
        yield bound


def _bound(made: socket.socket, address: Any) -> socket.socket:
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


@contextlib.contextmanager
def served_socket(path: Path) -> Iterator[socket.socket]:
    """A `unix_listener`; its file is removed at the end of the block, unless another process has replaced it.

    A server stops listening when it is interrupted and may then finish a long answer. Until that ends, another
    process finds a socket that nobody listens on, and replaces it.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(unix_listener(path))
        made = os.open(path, os.O_PATH | os.O_NOFOLLOW)  # keeps the inode, whose number could else be used again
        stack.callback(os.close, made)
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(made), path.lstat()):
                    path.unlink()


def unix_listener(path: Path) -> socket.socket:
    """A socket that listens at ``path``, mode 0600. A socket left there by a process that ended is replaced.

    ``HostError`` if another process listens there or nothing can be made there, ``UsageError`` for another file.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Nobody can connect before `listen`, so there is no moment at which others could.
        path.chmod(0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        raise HostError(
            f"no socket can be made at {path}: {error.strerror or error}",
            hint="expected a folder that you may write to; a socket's path has at most about 100 bytes",
        ) from error
    return listener


def _clear(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}") from error
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"{path}: is there already, and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise HostError(f"{path}: {error.strerror or error}") from error
    raise HostError(f"{path}: another process listens there")
