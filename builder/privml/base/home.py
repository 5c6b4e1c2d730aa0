"""The user's folders for caches and settings, and whose they are."""

from __future__ import annotations

import os
from pathlib import Path

from privml.base.errors import HostError


def user_folder(variable: str, default: str) -> Path:
    """The folder that ``variable`` names, else ``default`` in the home directory; ``HostError`` if there is none.

    The XDG specification says to ignore relative paths, which would mean another folder in each directory.
    """
    given = os.environ.get(variable, "")
    if given.startswith("/"):
        return Path(given)
    try:
        return Path.home() / default
    except RuntimeError as error:
        raise HostError(
            f"there is no home directory: HOME is not set, and the user database does not know user {_me()}",
            hint=f"set HOME, or {variable} to a folder that you may write",
        ) from error


def advice(path: Path) -> str | None:
    """What to do about ``path``, which may not be used; None unless another user owns it or the home directory."""
    try:
        home = Path.home()
        if path.is_relative_to(home) and (owner := other_owner(home)):
            return f"HOME is {home}, which belongs to {owner}: set HOME (`sudo -H` does), or PRIVML_STORE"
        while not os.path.lexists(path) and path != path.parent:
            path = path.parent
        if owner := other_owner(path):
            return f"{path} belongs to {owner}: choose another place (`--output`, PRIVML_STORE), or change the owner"
    except (OSError, RuntimeError):
        pass
    return None


def other_owner(path: Path) -> str:
    """The name of the user that ``path`` belongs to; empty if that is this process's user."""
    return "" if path.stat().st_uid == _me() else _name(path)


def _me() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _name(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, NotImplementedError):  # no entry, or a system without owners
        return f"user {path.stat().st_uid}"
