"""Parse and format sizes of memory and volumes, such as ``2GiB``; limits of machine sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_ALL = tuple(UNITS)
PLAIN_VCPUS = 255
"""The most virtual CPUs whose APIC ids fit in the 8 bits that a plain interrupt message has for them."""
MAX_VCPUS = 4096
"""The most virtual CPUs of QEMU's q35 machines."""


def size_of(text: str, units: Sequence[str] = _ALL) -> int:
    """Parse a size such as ``2GiB``; ``ValueError`` if it is malformed or its unit is not in ``units``."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([KMGT]iB)", text)
    if match is None or match[2] not in units:
        *most, last = units
        named = f"{', '.join(most)} or {last}" if most else last
        example = "GiB" if "GiB" in units else last
        raise ValueError(f"size `{text}`: expected a number with {named}, as in 2{example}")
    return int(match[1]) * UNITS[match[2]]


def size_text(size: int, units: Sequence[str] = _ALL) -> str:
    """The shortest exact text of a size in one of ``units``; in bytes if none divides it."""
    for unit in sorted(units, key=UNITS.__getitem__, reverse=True):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return f"{size} bytes"
