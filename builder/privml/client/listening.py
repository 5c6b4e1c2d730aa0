"""Unix sockets that only this user can open."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from privml.base.errors import HostError, UsageError

_PATIENCE = 1.0


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
