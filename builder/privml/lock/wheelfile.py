"""Read a wheel strictly: every file of it is in its RECORD with a SHA-256, has a plain path, and is a regular file.

https://packaging.python.org/en/latest/specifications/binary-distribution-format/. Nothing is installed here, and no
script is made: a wheel is an archive of files.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from privml.base.errors import InputsError
from privml.lock.models import Wheel

MAX_FILES = 100_000
MAX_BYTES = 8 << 30
MAX_RATIO = 200
"""The most bytes that a wheel may unpack to, for each of its own; above ``SMALL``."""
SMALL = 64 << 20
_MAX_TEXT = 32 << 20
_MAX_NAME = 1024
_CHUNK = 1 << 20
_NAME = re.compile(r"[^\x00-\x1f\x7f\\]+")
# Signatures of RECORD, which it cannot name with a digest.
_UNLISTED = ("RECORD", "RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True)
class WheelFile:
    """One file of a wheel: its name in the archive, its path below the folder of modules, SHA-256 in hex and size.

    ``path`` is empty for what is not a module or data of one: scripts, headers and the files of other folders.
    SHA-256 and size are those of RECORD; ``found`` is the size in the archive.
    """

    name: str
    path: str
    sha256: str
    size: int
    found: int


@dataclass(frozen=True)
class WheelContent:
    """What a wheel holds; ``requires`` are its Requires-Dist lines."""

    files: tuple[WheelFile, ...]
    requires: tuple[str, ...]


def read(path: Path, wheel: Wheel) -> WheelContent:
    """The files of ``wheel``, whose archive is at ``path``; ``InputsError`` if a rule of the format is broken.

    The sizes and bytes of its files are compared with RECORD for those that are used: ``check_size``, and ``opened``
    with ``copy``. Publishers change files after they wrote RECORD, and installers do not look.
    """
    with opened(path, wheel) as archive:
        entries = dict(_entries(archive, wheel, path.stat().st_size))
        info = _info(entries, wheel)
        record = _record(_text(archive, entries, f"{info}/RECORD", wheel), wheel)
        unlisted = {f"{info}/{name}" for name in _UNLISTED}
        if missing := sorted(entries.keys() - record.keys() - unlisted):
            raise _refused(wheel, "wheel-record", f"{missing[0]} is not in RECORD")
        if absent := sorted(record.keys() - entries.keys() - unlisted):
            raise _refused(wheel, "wheel-record", f"RECORD names {absent[0]}, which the wheel does not have")
        files = []
        for name in sorted(entries):
            if name in unlisted:
                if name.endswith("/RECORD"):
                    data = archive.read(name)
                    files.append(WheelFile(name, name, hashlib.sha256(data).hexdigest(), len(data), len(data)))
                continue
            sha256, size = record[name]
            files.append(WheelFile(name, _target(name, info), sha256, size, entries[name].file_size))
        _check_tags(_text(archive, entries, f"{info}/WHEEL", wheel), wheel)
        return WheelContent(tuple(files), _metadata(_text(archive, entries, f"{info}/METADATA", wheel), wheel))


def check_size(file: WheelFile, wheel: Wheel) -> None:
    """``InputsError`` unless the file has the size that RECORD names."""
    if file.found != file.size:
        text = f"{file.name} has {file.found} bytes, expected {file.size} as in RECORD"
        hint = "its publisher changed it afterwards: leave it out with `python.remove`, or take another version"
        raise _refused(wheel, "wheel-record", text, hint)


@contextmanager
def opened(path: Path, wheel: Wheel) -> Iterator[zipfile.ZipFile]:
    """The archive of a wheel; what is damaged in it becomes an ``InputsError``."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError) as error:
        raise _refused(wheel, "wheel-damaged", str(error)) from error


def copy(archive: zipfile.ZipFile, file: WheelFile, target: IO[bytes], wheel: Wheel) -> None:
    """Write one file of a wheel; ``InputsError`` if its bytes are not those that RECORD names."""
    digest, size = hashlib.sha256(), 0
    with archive.open(file.name) as source:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > file.size:
                break
            digest.update(chunk)
            target.write(chunk)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise _refused(wheel, "wheel-record", f"the bytes of {file.name} are not those that RECORD names")


def requirements_of(content: WheelContent, environment: dict[str, str], extras: Iterable[str]) -> list[Requirement]:
    """What the wheel requires in a guest with the markers of ``environment``, when asked for with ``extras``."""
    found = []
    for line in content.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # what uv could not read either led to no wheel
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
            found.append(requirement)
    return found


def _entries(archive: zipfile.ZipFile, wheel: Wheel, size: int) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Every file by its name; folders are left out."""
    if len(archive.infolist()) > MAX_FILES:
        raise _refused(wheel, "wheel-size", f"{len(archive.infolist())} files, expected at most {MAX_FILES}")
    seen: set[str] = set()
    total, allowed = 0, min(MAX_BYTES, max(SMALL, MAX_RATIO * size))
    for entry in archive.infolist():
        name, mode = entry.filename, entry.external_attr >> 16
        plain = name.removesuffix("/") if entry.is_dir() else name
        plainly = _NAME.fullmatch(name) and len(name) <= _MAX_NAME and name == entry.orig_filename
        if not plainly or {"", ".", ".."} & set(plain.split("/")):
            raise _refused(wheel, "wheel-path", f"the path {name[:200]!r} is not a plain one below its folder")
        if plain in seen:
            raise _refused(wheel, "wheel-path", f"{plain} is there twice")
        seen.add(plain)
        if entry.flag_bits & 0x1:
            raise _refused(wheel, "wheel-damaged", f"{name} is encrypted")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or stat.S_ISDIR(mode) > entry.is_dir():
            raise _refused(wheel, "wheel-mode", f"{name} is a link or a special file, expected a regular one")
        if mode & 0o6000:
            raise _refused(wheel, "wheel-mode", f"{name} has a set-id bit")
        total += entry.file_size
        if total > allowed:
            raise _refused(wheel, "wheel-size", f"it unpacks to more than {allowed >> 20} MiB")
        if not entry.is_dir():
            yield name, entry
    for name in seen:
        if any(parent in seen and not _is_folder(archive, parent) for parent in _parents(name)):
            raise _refused(wheel, "wheel-path", f"{name} is below a file")


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _is_folder(archive: zipfile.ZipFile, name: str) -> bool:
    return f"{name}/" in archive.NameToInfo


def _info(entries: dict[str, zipfile.ZipInfo], wheel: Wheel) -> str:
    folders = sorted({name.partition("/")[0] for name in entries if name.partition("/")[0].endswith(".dist-info")})
    if len(folders) != 1:
        raise _refused(
            wheel, "wheel-record", f"got the folders {', '.join(folders) or 'none'}, expected one .dist-info"
        )
    name, _, version = folders[0].removesuffix(".dist-info").partition("-")
    if canonicalize_name(name) != wheel.name:
        raise _refused(wheel, "wheel-record", f"{folders[0]}: got {name} {version}, expected {wheel}")
    return folders[0]


def _record(text: str, wheel: Wheel) -> dict[str, tuple[str, int]]:
    """Name -> SHA-256 in hex and size; RECORD itself and its signatures have neither."""
    found: dict[str, tuple[str, int]] = {}
    try:
        for row in csv.reader(io.StringIO(text), strict=True):
            if not row:
                continue
            if len(row) != 3 or row[0] in found:
                raise _refused(wheel, "wheel-record", f"the row {','.join(row)[:200]!r} is malformed, or there twice")
            name, digest, size = row
            if name.rpartition("/")[2] in _UNLISTED and name.count("/") == 1 and not digest:
                found[name] = ("", 0)
                continue
            kind, _, value = digest.partition("=")
            raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) if kind == "sha256" else b""
            if len(raw) != 32 or not (size.isascii() and size.isdigit()):
                got = f"{name}: got `{digest[:80]},{size[:20]}`"
                raise _refused(wheel, "wheel-record", f"{got}, expected sha256=DIGEST and a size")
            found[name] = (raw.hex(), int(size))
    except (csv.Error, binascii.Error) as error:
        raise _refused(wheel, "wheel-record", f"RECORD: {error}") from error
    return found


def _target(name: str, info: str) -> str:
    """Where a file goes below the folder of modules; empty if it is not one of these."""
    first, _, rest = name.partition("/")
    if first == f"{info.removesuffix('.dist-info')}.data":
        scheme, _, inside = rest.partition("/")
        return inside if scheme in ("purelib", "platlib") else ""
    return name


def _text(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, wheel: Wheel) -> str:
    if name not in entries or entries[name].file_size > _MAX_TEXT:
        raise _refused(wheel, "wheel-record", f"it has no {name} of at most {_MAX_TEXT >> 20} MiB")
    try:
        return archive.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(wheel, "wheel-record", f"{name} is not UTF-8") from error


def _metadata(text: str, wheel: Wheel) -> tuple[str, ...]:
    fields = HeaderParser().parsestr(text)
    name, version = str(fields.get("Name", "")), str(fields.get("Version", ""))
    if canonicalize_name(name) != wheel.name or not _same_version(version, wheel.version):
        raise _refused(wheel, "wheel-record", f"METADATA: got {name} {version}, expected {wheel}")
    return tuple(str(line) for line in fields.get_all("Requires-Dist", ()))


def _same_version(got: str, expected: str) -> bool:
    try:
        return Version(got) == Version(expected)
    except InvalidVersion:
        return False


def _check_tags(text: str, wheel: Wheel) -> None:
    version = str(HeaderParser().parsestr(text).get("Wheel-Version", ""))
    if version.partition(".")[0] != "1":
        raise _refused(wheel, "wheel-record", f"WHEEL: got the format {version or 'none'}, expected 1.x")


def _refused(wheel: Wheel, rule: str, text: str, hint: str | None = None) -> InputsError:
    return InputsError(f"{rule}: {wheel.file}: {text}", hint=hint)
