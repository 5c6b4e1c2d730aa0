"""The TEEs for which images can be built."""

from __future__ import annotations

BUILT = ("tdx", "snp")
FROM_DISK = ("tdx",)
"""Those for which a boot from a disk is predicted."""
WITHOUT = "tdx"
"""The one whose firmware starts a machine without a TEE: that of SNP guests starts nothing outside of one."""
GUEST_MODULES = ("tdx_guest", "sev_guest")
"""The kernel modules by which guests of these TEEs ask for evidence."""


def built(name: str) -> str:
    """Return ``name`` if images can be built for that TEE; ``ValueError`` otherwise."""
    if name not in BUILT:
        raise ValueError(f"got `{name}`, expected a TEE: {' or '.join(BUILT)}")
    return name
