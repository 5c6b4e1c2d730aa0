"""Connect to Unix sockets at paths of any length."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def connected(path: Path, timeout: float | None = None) -> socket.socket:
    """A connection to the socket ``path``; ``OSError`` if nothing listens there.

    The kernel takes at most 107 bytes (unix(7)), and a folder for temporary files may be longer than that, so the
    path is taken from a handle of its folder.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection
