"""The power button's meaning, as the kernel gets it. That it turns a guest off: tests/real/test_one_guest.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privml.agent import powerbutton


def test_the_entry_of_the_keymap_is_the_kernels(tmp_path: Path) -> None:
    """Bytes of `struct kbentry` for KDSKBENT: table 0, KEY_POWER (116), K_BOOT (0x020c)."""
    (tmp_path / "tty0").touch()
    asked: list[tuple[str, int, bytes]] = []

    def ioctl(file: int, request: int, data: bytes) -> None:
        asked.append((os.readlink(f"/proc/self/fd/{file}"), request, data))

    powerbutton.bind(tmp_path, ioctl)
    assert asked == [(str(tmp_path / "tty0"), 0x4B47, bytes.fromhex("00740c02"))]


def test_a_machine_without_a_virtual_console_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        powerbutton.bind(tmp_path)
    (tmp_path / "tty0").touch()
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        powerbutton.bind(tmp_path)
