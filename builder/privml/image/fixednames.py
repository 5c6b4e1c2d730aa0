"""Mount folders at fixed paths, then run a program there: `fixednames.py ROOT NAME=FOLDER... -- PROGRAM WORD...`.

mkosi passes paths to a shell and to apt, which break on blanks, quotes and `$`, and a path could get into the image.
So it sees only ROOT/NAME. A number in place of a folder is a new one in memory, of at most so many bytes: without a
size it would have half of the memory. The mounts are in a new mount namespace, which ends with the program, as do the
folders in memory. This file is run by itself, inside the cell of `image.tools`, and imports nothing of privml-build.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/tmp/privml-build")  # noqa: S108 - an empty mount point on the host
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV = 0x1000, 0x4000, 0x40000, 2, 4
_NEW_MOUNTS = 0x20000
_EMPTY = 1 << 20
"""Bytes for mount points alone."""


def arguments(folders: Mapping[str, Path | int]) -> list[str]:
    """The argv prefix that runs a program with each folder mounted at ``ROOT/NAME``; a number is one in memory."""
    bound = [f"{name}={folder}" for name, folder in folders.items()]
    return [sys.executable, "-I", __file__, str(ROOT), *bound, "--"]


def main(root: str, *words: str) -> None:
    """Mount and run; the program replaces this process."""
    end = words.index("--")
    Path(root).mkdir(mode=0o755, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_NEW_MOUNTS), "a mount namespace")

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        given = (os.fsencode(word) for word in (source, target, kind))
        _check(libc.mount(*given, ctypes.c_ulong(flags), data.encode()), target)

    mount("none", "/", "", _REC | _PRIVATE)
    # Open before ROOT is covered, in case a folder lies below it.
    pairs = [word.partition("=") for word in words[:end]]
    folders = {name: None if folder.isdecimal() else os.open(folder, os.O_PATH) for name, _, folder in pairs}
    size = sum(int(folder) for _, _, folder in pairs if folder.isdecimal())
    mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"mode=0755,size={size or _EMPTY}")
    for name, number in folders.items():
        place = Path(root, name)
        place.mkdir()
        if number is None:
            continue
        mount(f"/proc/self/fd/{number}", str(place), "", _BIND | _REC)
        os.close(number)
    os.execvp(words[end + 1], words[end + 1 :])  # noqa: S606 - argv is a list, there is no shell


def _check(status: int, what: str) -> None:
    if status != 0:
        sys.exit(f"{what} cannot be made: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
