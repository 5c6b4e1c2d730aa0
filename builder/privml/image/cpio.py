"""Write a newc cpio archive (Linux Documentation/driver-api/early-userspace/buffer-format) from a file list.

Byte-stable: members sorted by path, inode numbers in that order, one owner, one time, no hard links.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Member:
    """A regular file (mode 0644 or 0755), or a directory when ``data`` is None."""

    data: bytes | None
    executable: bool = False


def archive(members: Mapping[str, Member], *, mtime: int) -> bytes:
    """The archive of ``members`` (relative path -> member), parents added; padded to 512 bytes."""
    full: dict[str, Member] = {}
    for path, member in members.items():
        if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError(f"cpio path `{path}` is not a plain relative path")
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if full.setdefault(parent, members.get(parent, Member(None))).data is not None:
                raise ValueError(f"cpio path `{path}` lies in `{parent}`, which is a file")
        full[path] = member
    out = bytearray()
    for inode, path in enumerate(sorted(full), start=1):
        member = full[path]
        if member.data is None:
            _entry(out, path, stat.S_IFDIR | 0o755, inode, 2, mtime, b"")
        else:
            mode = stat.S_IFREG | (0o755 if member.executable else 0o644)
            _entry(out, path, mode, inode, 1, mtime, member.data)
    _entry(out, _TRAILER, 0, 0, 1, 0, b"")
    out += bytes(-len(out) % 512)
    return bytes(out)


def _entry(out: bytearray, path: str, mode: int, inode: int, links: int, mtime: int, data: bytes) -> None:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, mtime, len(data), 0, 0, 0, 0, len(name), 0)
    out += b"070701" + b"".join(b"%08x" % value for value in fields) + name
    out += bytes(-len(out) % 4)
    out += data
    out += bytes(-len(out) % 4)
