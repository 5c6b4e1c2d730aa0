"""Unpack .deb files without dpkg: an ``ar`` archive of three members (deb(5)), the third a tar of the files.

Supports what a tools tree needs: regular files, directories, symbolic and hard links. Nothing is written outside the
root. Directories that are symbolic links in the root (merged /usr) are kept and followed inside it. Maintainer
scripts are never run.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from privml.base.errors import InputsError

_MAGIC = b"!<arch>\n"
_MAX_LINKS = 40


def members(data: bytes, what: str) -> Iterator[tuple[str, memoryview]]:
    """Yield (name, bytes) of the members of an ``ar`` archive; ``InputsError`` if it is malformed or truncated."""
    if data[:8] != _MAGIC:
        raise InputsError(f"{what}: not a .deb (no ar magic)")
    view, at = memoryview(data), 8
    while at < len(data):
        header = data[at : at + 60]
        if len(header) != 60 or header[58:] != b"`\n":
            raise InputsError(f"{what}: broken ar header at byte {at}")
        try:
            name, digits = header[:16].decode("ascii").rstrip(" ").rstrip("/"), header[48:58].rstrip(b" ")
        except ValueError as error:
            raise InputsError(f"{what}: broken ar header at byte {at}") from error
        if not digits.isdigit():
            raise InputsError(f"{what}: broken ar header at byte {at}")
        size = int(digits)
        if at + 60 + size > len(data):
            raise InputsError(f"{what}: member `{name}` is truncated, expected {size} bytes")
        yield name, view[at + 60 : at + 60 + size]
        at += 60 + size + (size & 1)


def tar_of(data: bytes, stem: str, what: str) -> tarfile.TarFile:
    """Open the member ``control.tar*`` or ``data.tar*`` of a .deb."""
    for name, body in members(data, what):
        if name == stem or name.startswith(stem + "."):
            try:
                return tarfile.open(fileobj=io.BytesIO(body), mode="r:*")
            except (tarfile.TarError, EOFError, OSError) as error:
                raise InputsError(f"{what}: {name} cannot be read: {error}") from error
    raise InputsError(f"{what}: has no {stem}")


def control(data: bytes, what: str) -> str:
    """The control file of a .deb."""
    try:
        with tar_of(data, "control.tar", what) as archive:
            for entry in archive:
                if entry.name in ("control", "./control") and (file := archive.extractfile(entry)) is not None:
                    return file.read().decode("utf-8").strip()
    except (tarfile.TarError, lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise InputsError(f"{what}: its control archive cannot be read: {error}") from error
    raise InputsError(f"{what}: its control archive has no file `control`")


def unpack(data: bytes, root: Path, what: str) -> None:
    """Unpack the files of one .deb under ``root``. Owners are not kept, because the tree is never booted."""
    try:
        with tar_of(data, "data.tar", what) as archive:
            for entry in archive:
                _place(archive, entry, root, what)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise InputsError(f"{what}: {error}") from error
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename).name
        raise InputsError(f"{what}: `{name}` conflicts with an existing path: {error.strerror}") from error


def _place(archive: tarfile.TarFile, entry: tarfile.TarInfo, root: Path, what: str) -> None:
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts:
        raise InputsError(f"{what}: path `{entry.name}` leaves the tree")
    if not path.parts:
        return
    target = inside(root, path.parent, what) / path.name
    if entry.isdir():
        if target.is_symlink():
            # Keep the link and follow it inside the root; its target has its own mode.
            inside(root, path, what).mkdir(exist_ok=True, parents=True)
            return
        target.mkdir(exist_ok=True, parents=True)
        target.chmod(entry.mode & 0o1777 | 0o700)
        return
    target.parent.mkdir(exist_ok=True, parents=True)
    if target.is_dir() and not target.is_symlink():
        raise InputsError(f"{what}: `{entry.name}` would replace a directory")
    target.unlink(missing_ok=True)
    if entry.issym():
        target.symlink_to(entry.linkname)
    elif entry.islnk():
        link = PurePosixPath(entry.linkname)
        if link.is_absolute() or ".." in link.parts:
            raise InputsError(f"{what}: link `{entry.name}` leaves the tree")
        os.link(inside(root, link.parent, what) / link.name, target, follow_symlinks=False)
    elif entry.isfile():
        source = archive.extractfile(entry)
        assert source is not None
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        # Drop set-id bits: the tree belongs to the current user and other users may be able to reach it.
        target.chmod(entry.mode & 0o777)
        os.utime(target, (entry.mtime, entry.mtime))
    else:
        raise InputsError(f"{what}: `{entry.name}` is a device or of an unknown type")


def inside(root: Path, path: PurePosixPath, what: str) -> Path:
    """Resolve ``path`` below ``root``, following symbolic links as after chroot."""
    result, todo, links = root, list(path.parts), 0
    while todo:
        part = todo.pop(0)
        if part in ("/", "."):
            continue
        if part == "..":
            result = root if result == root else result.parent
            continue
        step = result / part
        if step.is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise InputsError(f"{what}: too many links in `{path}`")
            destination = PurePosixPath(step.readlink())
            if destination.is_absolute():
                result = root
            todo = [*destination.parts, *todo]
        else:
            result = step
    return result
