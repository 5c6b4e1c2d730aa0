"""Read the caller's policy from a file."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import UsageError
from privml.verify.policy import Policy
from privml.verify.policyfile import MAX_FILE, decode


def read(path: Path) -> Policy:
    """The policy in ``path`` (TOML or JSON); ``UsageError`` if it cannot be read or is not a valid one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return decode(data, str(path))
