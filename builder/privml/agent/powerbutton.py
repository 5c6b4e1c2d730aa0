"""Let the host's power button turn the machine off in order.

The kernel hands the button's key to the keyboard of the virtual console. There it gets the meaning of Ctrl-Alt-Del:
the kernel signals systemd, which starts `ctrl-alt-del.target`. So no process has to read input devices.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

CONSOLE = "tty0"
# linux/kd.h, linux/keyboard.h and linux/input-event-codes.h.
_KDSKBENT = 0x4B47
_ENTRY = struct.Struct("=BBH")  # struct kbentry: table, key, meaning
_PLAIN = 0  # the table without Shift, Ctrl and Alt
_KEY_POWER = 116
_BOOT = 0x020C  # K_BOOT: what Ctrl-Alt-Del means


def bind(dev: Path, ioctl: Callable[[int, int, bytes], object] = fcntl.ioctl) -> None:
    """Give the power button the meaning of Ctrl-Alt-Del; ``OSError`` if the machine has no virtual console."""
    console = os.open(dev / CONSOLE, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        ioctl(console, _KDSKBENT, _ENTRY.pack(_PLAIN, _KEY_POWER, _BOOT))
    finally:
        os.close(console)
