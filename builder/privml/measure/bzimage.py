"""bzImage: the fields of the Linux setup header that identify a kernel file.

Source: Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned

_MAGIC = b"HdrS"
_FIRST_PROTOCOL = 0x200


def is_kernel(image: bytes) -> bool:
    """True when ``image`` has a setup header."""
    return image[0x202:0x206] == _MAGIC and image[0x1FE:0x200] == b"\x55\xaa"


def protocol(kernel: bytes) -> int:
    """The boot protocol (0x20c is 2.12); ``MeasurementError`` without a header, or for a file shorter than its setup
    code."""
    if not is_kernel(kernel):
        raise MeasurementError("not a bzImage: there is no `HdrS` at byte 514")
    number = unsigned(kernel, 0x206, 2, "bzImage protocol")
    if number < _FIRST_PROTOCOL:
        raise MeasurementError(f"bzImage: boot protocol 0x{number:x}, expected 0x200 or newer")
    setup_size = ((unsigned(kernel, 0x1F1, 1, "bzImage") or 4) + 1) * 512
    piece(kernel, 0, setup_size, "bzImage setup code")
    return number
