"""A file tree as comparable values: all metadata and content digests of every path in an image.

Links are not followed and nothing is skipped: a link is its target, a device its number, directories are entries too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privml.base.files import sha256_file
from privml.measure import cpio

# In report order: type, then content, then metadata.
FIELDS = ("type", "content", "mode", "uid", "gid", "mtime", "xattrs", "links")
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
_KEEP = 32 << 20


@dataclass(frozen=True)
class Entry:
    """One path. ``content`` is a SHA-256, a link's target or a device's number.

    ``mtime`` is in nanoseconds. ``links`` names the first of its hard links, or its place in an archive.
    """

    type: str
    content: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    xattrs: tuple[tuple[str, str], ...] = ()
    links: str = ""

    def shown(self, field: str) -> str:
        """A field as readable text."""
        if field == "mode":
            return f"{self.mode:04o}"
        if field == "content":
            return f"{self.content[:16]}.. ({self.size} bytes)" if self.type == "file" else self.content
        if field == "xattrs":
            return ", ".join(f"{name}={value[:40]}" for name, value in self.xattrs) or "none"
        if field == "mtime":
            return f"{self.mtime // 10**9}.{self.mtime % 10**9:09}".removesuffix(".000000000")
        return str(getattr(self, field)) or "none"

    def differing(self, other: Entry) -> tuple[str, ...]:
        """The fields that differ; if the types differ, only the type."""
        if self.type != other.type:
            return ("type",)
        return tuple(field for field in FIELDS if getattr(self, field) != getattr(other, field))


@dataclass(frozen=True)
class FileTree:
    """Path -> entry, sorted by path, with access to the bytes of files (None if too big to inspect)."""

    entries: Mapping[str, Entry]
    root: Path | None = None
    bodies: Mapping[str, bytes] | None = None

    def read(self, path: str) -> bytes | None:
        """The bytes of a regular file, for finding a cause."""
        entry = self.entries.get(path)
        if entry is None or entry.type != "file" or entry.size > _KEEP:
            return None
        if self.bodies is not None:
            return self.bodies[path]
        return None if self.root is None else (self.root / path).read_bytes()

    @contextmanager
    def file(self, path: str) -> Iterator[Path]:
        """A file with the bytes of ``path``, for an external program."""
        if self.root is not None:
            yield self.root / path
            return
        with tempfile.NamedTemporaryFile(prefix="privml-look.") as file:
            file.write((self.bodies or {})[path])
            file.flush()
            yield Path(file.name)


def read_tree(root: Path) -> FileTree:
    """The tree under a directory, including the directory itself as ``.``."""
    entries: dict[str, Entry] = {}
    first: dict[tuple[int, int], str] = {}
    for path, name in _walk(root):
        status = path.lstat()
        links = ""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            links = first.setdefault((status.st_dev, status.st_ino), name)
        entries[name] = Entry(
            type=_KINDS[stat.S_IFMT(status.st_mode)],
            content=_content(path, status),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            mtime=status.st_mtime_ns,
            xattrs=tuple(
                (attribute, os.getxattr(path, attribute, follow_symlinks=False).hex())
                for attribute in sorted(os.listxattr(path, follow_symlinks=False))
            ),
            links=links,
        )
    return FileTree(entries, root=root)


def read_trees(a: Path, b: Path) -> tuple[FileTree, FileTree]:
    """Read both trees in parallel: hashing releases the GIL."""
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(read_tree, (a, b))
    return one, two


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    yield root, "."
    todo = [(root, "")]
    while todo:
        folder, prefix = todo.pop()
        for item in sorted(os.scandir(folder), key=lambda one: one.name):
            name = f"{prefix}{item.name}"
            yield Path(item.path), name
            if item.is_dir(follow_symlinks=False):
                todo.append((Path(item.path), name + "/"))


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return sha256_file(path)
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)  # noqa: PTH115 - Path would normalise the target
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return ""


def read_cpio(data: bytes) -> FileTree:
    """The members of a newc archive, with their positions in ``links``; ``MeasurementError`` if malformed."""
    found: dict[str, Entry] = {}
    bodies: dict[str, bytes] = {}
    for member in cpio.entries(data):
        bodies[member.name] = member.data
        kind = _KINDS.get(stat.S_IFMT(member.mode), "file")
        content = member.data.decode("utf-8", "backslashreplace") if kind == "link" else ""
        if kind == "file":
            content = hashlib.sha256(member.data).hexdigest()
        elif kind.endswith("device"):
            content = "{}:{}".format(*member.device)
        # The order of members is part of an archive.
        found[member.name] = Entry(
            type=kind,
            content=content,
            mode=stat.S_IMODE(member.mode),
            uid=member.uid,
            gid=member.gid,
            size=len(member.data),
            mtime=member.mtime * 10**9,
            links=f"member {len(found)}",
        )
    return FileTree(found, bodies=bodies)
