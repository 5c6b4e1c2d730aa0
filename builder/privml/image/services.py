"""Files of the image for the recipe's services: users, limits, access to data, and the server's way to them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from privml.events import services
from privml.image.render import File
from privml.recipe.service import Service

_SMALL = 64 * services.MIB
_MOUNT = "mode=1777,noexec,nosuid,nodev"
_USERS = "usr/lib/sysusers.d/privml-services.conf"
_ACCESS = "etc/systemd/system/privml-server.service.d/services.conf"


def _limits_file(name: str) -> str:
    return f"etc/systemd/system/{services.unit(name)}.d/limits.conf"


def is_of_service(path: str) -> bool:
    """Whether ``overlay`` makes the file at ``path`` for services of some name."""
    return path in (_USERS, _ACCESS) or fnmatchcase(path, _limits_file("*"))


def overlay(given: Mapping[str, Service], *, data: bool = False) -> dict[str, File]:
    """Overlay files (path -> file) beside those of ``images/guest/services``; none without a service.

    ``data``: the image has data, which their users may read.
    """
    if not given:
        return {}
    users = "".join(
        f"g {services.user(name)} {number}\n"
        f'u {services.user(name)} {number}:{number} "service {name} of the image" /\n'
        for number, name in enumerate(sorted(given), services.FIRST_ID)
    )
    if data:
        users += f"g {services.DATA_GROUP} {services.DATA_ID}\n"
    groups = " ".join(map(services.user, sorted(given)))
    files = {
        _USERS: File(users.encode()),
        _ACCESS: File(
            "# Access to the services' sockets, which carry requests in plain text.\n"
            f"[Service]\nSupplementaryGroups={groups}\n".encode()
        ),
    }
    for name, service in sorted(given.items()):
        files[_limits_file(name)] = File(_limits(service, data=data).encode())
    return files


def _limits(service: Service, *, data: bool) -> str:
    """Its memory, and its own writable directories: all there is for it to write to, and gone with it."""
    sizes = {"/tmp": service.scratch or services.SCRATCH_SIZE, "/var/tmp": _SMALL, "/dev/shm": _SMALL}  # noqa: S108
    lines = [f"TemporaryFileSystem={path}:size={size // services.MIB}M,{_MOUNT}\n" for path, size in sizes.items()]
    group = f"SupplementaryGroups={services.DATA_GROUP}\n" if data else ""
    return f"[Service]\n{group}MemoryMax={service.memory // services.MIB}M\nMemorySwapMax=0\n{''.join(lines)}"
