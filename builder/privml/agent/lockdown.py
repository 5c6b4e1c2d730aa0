"""Lock the kernel down once all its modules are loaded.

Other images start with `lockdown=integrity`. A kernel that starts so takes no module that its maker did not sign, and
nobody but its maker can sign the modules of a driver. They are loaded from the verity root, before the network comes
up; then the kernel is locked down for good.
"""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import HostError

LEVEL = "integrity"


def lock_down(sys: Path) -> None:
    """Raise the lockdown of the kernel; ``HostError`` unless it is in force afterwards."""
    place = sys / "kernel" / "security" / "lockdown"
    try:
        if f"[{LEVEL}]" not in place.read_text().split():
            place.write_text(LEVEL)
        found = place.read_text().strip()
    except OSError as error:
        raise HostError(f"lockdown: the kernel cannot be locked down: {error.strerror}") from error
    if f"[{LEVEL}]" not in found.split():
        raise HostError(f"lockdown: got `{found}`, expected [{LEVEL}]")
