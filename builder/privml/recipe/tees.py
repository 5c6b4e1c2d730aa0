"""The TEEs for which images can be built."""

from __future__ import annotations

BUILT = ("tdx",)
FROM_DISK = ("tdx",)
"""Those for which a boot from a disk is predicted."""
GUEST_MODULES = ("tdx_guest",)
"""The kernel modules by which guests of these TEEs ask for evidence."""
PLANNED = ("snp",)
"""TEEs supported elsewhere, for which no image can be built yet."""


def built(name: str) -> str:
    """Return ``name`` if images can be built for that TEE; ``ValueError`` otherwise."""
    if name in BUILT:
        return name
    known = " or ".join(BUILT)
    if name in PLANNED:
        raise ValueError(f"images for `{name}` are not built yet, expected {known}")
    raise ValueError(f"got `{name}`, expected a TEE: {known}")
