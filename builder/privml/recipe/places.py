"""Where in the root a recipe may put files: folders of its own, from which no program of the guest reads by itself.

A unit, a loader's setting or a Python module in the wrong folder would run as root at boot without a line in the
recipe that says so. `finalize` also refuses a folder that an installed package has.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from privml.recipe import guestroot, removals

FOLDERS = ("etc", "usr/lib")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*")
_OWN = re.compile(r"[a-z0-9][a-z0-9_-]*")
# Folders that programs of the guest read, or would if a package brought them.
_READ = (
    "alternatives", "apparmor*", "apt", "binfmt", "ca-certificates", "credstore*", "crypto-policies", "dbus-*",
    "debug", "default", "dist-packages", "dpkg", "environment", "firmware", "gnutls", "iproute2", "kernel", "ld*",
    "lib*", "locale", "modprobe", "modules*", "network*", "nss*", "openssl*", "ossl-modules", "pam*", "pki",
    "polkit*", "privml*", "python*", "rc*", "sasl*", "security", "selinux", "skel", "ssh", "ssl", "sysctl",
    "systemd*", "terminfo", "tmpfiles", "udev*", "x86_64-*", "xdg",
)  # fmt: skip


def refused(path: str, programs: frozenset[str]) -> str | None:
    """Why a recipe may not have a file at ``path`` (without a leading slash); None if it may."""
    parts = path.split("/")
    if (bad := next((part for part in parts if not _NAME.fullmatch(part)), None)) is not None:
        return f"`{bad[:80]}` is not a plain name of letters, digits and ._+@-"
    if bad := next((part for part in parts for each in guestroot.FORBIDDEN if fnmatchcase(part, each)), None):
        return f"the name `{bad}` is forbidden in the guest"
    if (why := removals.lost(path, programs)) is not None:
        return f"it would not be in the image: {why}"
    if path.startswith("usr/bin/"):
        return None if path.count("/") == 2 else "expected a program /usr/bin/NAME"
    folder = next((each for each in FOLDERS if path.startswith(f"{each}/")), None)
    if folder is None:
        return "expected a path in " + " or ".join(f"/{each}/NAME/" for each in FOLDERS)
    own, _, rest = path.removeprefix(f"{folder}/").partition("/")
    if not rest:
        return f"expected a folder of your own, such as /{folder}/{own}/{own}"
    if not _OWN.fullmatch(own) or any(fnmatchcase(own, each) for each in _READ):
        return f"programs of the guest read /{folder}/{own}; expected a folder of your own"
    return None
