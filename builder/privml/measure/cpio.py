"""Write and read newc cpio archives: our initrd, the archives that the UKI's stub adds, and third-party ones.

Archives that ``archive`` writes are byte-stable: members sorted by path, inode numbers in that order, one owner, one
time, no hard links. Source: Linux Documentation/driver-api/early-userspace/buffer-format.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.measure.digest import piece

_MAGIC = b"070701"
_HEADER = 110
_FIELDS = re.compile(rb"[0-9a-fA-F]{104}")
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One member as its header describes it; ``device`` is the (major, minor) of a device node."""

    name: str
    inode: int
    mode: int
    data: bytes = b""
    links: int = 1
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    device: tuple[int, int] = (0, 0)

    def encoded(self) -> bytes:
        """Header, name and data, each padded to four bytes."""
        name = self.name.encode() + b"\0"
        size = len(self.data)
        fields = (self.inode, self.mode, self.uid, self.gid, self.links, self.mtime, size, 0, 0, *self.device)
        head = _MAGIC + b"".join(b"%08x" % value for value in (*fields, len(name), 0)) + name
        return head + bytes(-len(head) % 4) + self.data + bytes(-size % 4)


def entries(data: bytes) -> Iterator[Entry]:
    """The members of the archive at the start of ``data``, in its order, up to its trailer.

    ``MeasurementError`` when there is no archive, or it is truncated or malformed.
    """
    at = 0
    while True:
        header = piece(data, at, _HEADER, "cpio header")
        if header[:6] != _MAGIC or not _FIELDS.fullmatch(header[6:]):
            raise MeasurementError(f"cpio: no newc header at byte {at}")
        inode, mode, uid, gid, links, mtime, size, _, _, major, minor, length, _ = (
            int(header[6 + 8 * number : 14 + 8 * number], 16) for number in range(13)
        )
        raw = piece(data, at + _HEADER, length, "cpio member's name")
        if not raw.endswith(b"\0"):
            raise MeasurementError(f"cpio: the name of the member at byte {at} has no end")
        name = raw[:-1].decode("utf-8", "replace")
        if name == _TRAILER:
            return
        at = _aligned(at + _HEADER + length)
        body = piece(data, at, size, f"cpio member {name[:80]}")
        yield Entry(name, inode, mode, body, links, uid, gid, mtime, (major, minor))
        at = _aligned(at + size)


def _aligned(offset: int) -> int:
    return offset + -offset % 4


@dataclass(frozen=True)
class Member:
    """What ``archive`` writes: a regular file (mode 0644 or 0755), or a directory when ``data`` is None."""

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
            entry = Entry(path, inode, stat.S_IFDIR | 0o755, links=2, mtime=mtime)
        else:
            mode = stat.S_IFREG | (0o755 if member.executable else 0o644)
            entry = Entry(path, inode, mode, member.data, mtime=mtime)
        out += entry.encoded()
    out += Entry(_TRAILER, 0, 0).encoded()
    out += bytes(-len(out) % 512)
    return bytes(out)
