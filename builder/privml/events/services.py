"""The image's own services: names, ids and paths that the builder and the guest agree on.

A service is a program of the recipe's author. It listens on a unix socket, and callers reach it at ``/x/NAME/`` over
the attested connection. It has a user of its own and no network.
"""

from __future__ import annotations

import re

MAX_SERVICES = 8
DIRECTORY = "/run/privml-services"
"""Holds one directory per service, which only its user and the server may enter."""
SOCKET = "http.sock"
PREFIX = "/x/"
DATA_GROUP = "privml-data"
"""The group that may enter the directory of data volumes; every service's user is in it."""
DATA_ID = 905
"""gid of `DATA_GROUP`."""
FIRST_ID = 910
"""uid and gid of the first service; the others follow in the order of their names."""
NAME = re.compile(r"\A[a-z][a-z0-9]*(?:-[a-z0-9]+)*\Z")
MAX_NAME = 20
MIB = 1 << 20
SCRATCH_SIZE = 64 * MIB
"""Size in bytes of a service's /tmp, unless its recipe gives another one."""
VARIABLE = re.compile(r"\A[A-Z][A-Z0-9_]{0,63}\Z")
SOCKET_VARIABLE = "SOCKET"
"""The environment variable with the path of the socket that the service must listen on."""


def user(name: str) -> str:
    """The service's user and group."""
    return f"privml-x-{name}"


def unit(name: str) -> str:
    """The service's systemd unit."""
    return f"privml-service@{name}.service"


def directory(name: str) -> str:
    """The directory of the service's socket."""
    return f"{DIRECTORY}/{name}"


def socket_path(name: str) -> str:
    """The service's socket."""
    return f"{directory(name)}/{SOCKET}"
