"""bzImage: the kernel's setup header, and the bytes that QEMU changes in it before a legacy ``-kernel`` boot.

Source: Linux Documentation/arch/x86/boot.rst; QEMU hw/i386/x86-common.c x86_load_linux. Since QEMU 10.0 with edk2
202502 firmware loads the unpatched file (fw_cfg etc/boot/kernel) and none of this matters; before, RTMR1 depends on
the initrd's size, and on memory below 2816 MiB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece, unsigned
from privml.measure.tdhob import ram_ranges

_MAGIC = b"HdrS"
_FIRST_PROTOCOL = 0x200
_LOADED_HIGH = 0x01
_HEAP = 0x80
_ABOVE_4G = 0x02
_ACPI_DATA = 0x28000
_INITRD_MAX = 0x37FFFFFF
_HEADER_WINDOW = 8192
_PAGE = 4096
_VIDEO = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}
_VGA = re.compile(r"vga=(normal|ext|ask|0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})(?: |\Z)")


@dataclass(frozen=True)
class SetupHeader:
    """What QEMU reads of it: boot ``protocol`` (0x20c is 2.12), where the kernel's parts lie, and its limits."""

    protocol: int
    loaded_high: bool
    setup_size: int
    initrd_max: int


def is_kernel(image: bytes) -> bool:
    """True when ``image`` has a setup header."""
    return image[0x202:0x206] == _MAGIC and image[0x1FE:0x200] == b"\x55\xaa"


def setup_header(kernel: bytes) -> SetupHeader:
    """Read it; ``MeasurementError`` for a file without one, and for one shorter than its setup code."""
    if not is_kernel(kernel):
        raise MeasurementError("not a bzImage: there is no `HdrS` at byte 514")
    protocol = unsigned(kernel, 0x206, 2, "bzImage protocol")
    if protocol < _FIRST_PROTOCOL:
        raise MeasurementError(f"bzImage: boot protocol 0x{protocol:x}, expected 0x200 or newer")
    setup_size = ((unsigned(kernel, 0x1F1, 1, "bzImage") or 4) + 1) * 512
    piece(kernel, 0, setup_size, "bzImage setup code")
    initrd_max = _INITRD_MAX
    if protocol >= 0x20C and unsigned(kernel, 0x236, 2, "bzImage") & _ABOVE_4G:
        initrd_max = 0xFFFFFFFF
    elif protocol >= 0x203:
        initrd_max = unsigned(kernel, 0x22C, 4, "bzImage")
    return SetupHeader(protocol, bool(kernel[0x211] & _LOADED_HIGH), setup_size, initrd_max)


def patched(kernel: bytes, *, memory: int, initrd_size: int, cmdline: str = "") -> bytes:
    """``kernel`` as QEMU hands it to firmware by the legacy loader, on a q35 machine of ``memory`` bytes.

    ``initrd_size`` is 0 without an initrd. ``MeasurementError`` when QEMU would refuse: an initrd that does not fit,
    a ``vga=`` that it cannot read.
    """
    header = setup_header(kernel)
    out = bytearray(kernel)
    high = header.loaded_high and header.protocol >= 0x202
    # A low kernel's command line ends at 0x9a000; QEMU rounds its size with the final NUL up to 16.
    real, text = (0x10000, 0x20000) if high else (0x90000, 0x9A000 - ((len(cmdline.encode()) + 16) & ~15))

    def put(at: int, size: int, value: int) -> None:
        out[at : at + size] = value.to_bytes(size, "little")

    if header.protocol >= 0x202:
        put(0x228, 4, text)
    else:
        put(0x20, 2, 0xA33F)
        put(0x22, 2, text - real)
    video = _video_mode(cmdline)
    if video is not None:
        put(0x1FA, 2, video)
    put(0x210, 1, 0xB0)
    if header.protocol >= 0x201:
        put(0x211, 1, kernel[0x211] | _HEAP)
        put(0x224, 2, text - real - 0x200)
    if initrd_size:
        low = ram_ranges(memory)[0][1]
        limit = min(header.initrd_max, low - _ACPI_DATA - 1)
        if initrd_size >= limit:
            raise MeasurementError(f"bzImage: an initrd of {initrd_size} bytes does not fit below {limit}")
        put(0x218, 4, (limit - initrd_size) & ~(_PAGE - 1))
        put(0x21C, 4, initrd_size)
    end = min(_HEADER_WINDOW, header.setup_size)  # QEMU writes back no more than it read, and only the setup code
    return bytes(out[:end]) + kernel[end:]


def _video_mode(cmdline: str) -> int | None:
    at = cmdline.find("vga=")
    if at < 0:
        return None
    match = _VGA.match(cmdline, at)
    if match is None:
        raise MeasurementError(f"`{cmdline[at : at + 20]}`: QEMU reads no video mode from it and refuses to start")
    word = match[1]
    if word in _VIDEO:
        return _VIDEO[word]
    octal = word.isdigit() and len(word) > 1 and word[0] == "0"
    try:
        return int(word, 8 if octal else 0) & 0xFFFF
    except ValueError as error:
        raise MeasurementError(f"vga={word}: not a number") from error
