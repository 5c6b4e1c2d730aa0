"""Read a vendor's runfile without running it: a shell script, and behind it a compressed tar file (Makeself).

The script's first lines are assignments. ``skip`` is the number of the line at which the tar file begins; between
the script and that line there may be a program that unpacks it. ``targetdir`` is the folder that it unpacks to.
Nothing of the script is executed, and everything that is read has a bound. The tar file is read by `lock.vendortar`.

Source: NVIDIA's makeself.sh 1.6.0-nv, which is part of the runfiles.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from privml.base.errors import InputsError

MAX_TAR = 8 << 30
"""The largest tar file that is unpacked; that of a driver has 2 GiB."""
_MAX_HEADER = 4 << 20
_FIRST = re.compile(rb"#! ?/bin/sh\n")
_LINE = re.compile(rb'([A-Za-z_][A-Za-z0-9_]*)=("?)([ -~]*)\2')


@dataclass(frozen=True)
class Compression:
    """How a tar file is compressed: its first bytes, the end of its file name, and the program that unpacks it."""

    magic: bytes
    suffix: str
    program: tuple[str, ...]


COMPRESSIONS = (
    Compression(b"\x28\xb5\x2f\xfd", ".zst", ("zstd", "--decompress", "--quiet", "--rm")),
    Compression(b"\xfd7zXZ\x00", ".xz", ("xz", "--decompress", "--quiet")),
)


@dataclass(frozen=True)
class Header:
    """What a runfile says of itself; its tar file begins at the byte ``start``."""

    name: str
    version: str
    start: int
    compression: Compression


def header(file: BinaryIO, what: str) -> Header:
    """Read the header of a runfile; ``InputsError`` if it is none."""
    data = file.read(_MAX_HEADER + 1)
    if not (first := _FIRST.match(data)):
        raise InputsError(f"driver-runfile: {what} does not begin with `#!/bin/sh`, as a runfile does")
    said = _said(data, first.end())
    missing = [name for name in ("skip", "targetdir", "version_string") if name not in said]
    if missing or not re.fullmatch(r"[1-9][0-9]{0,5}", said.get("skip", "")):
        found = ", ".join(missing) or f"skip={said['skip']}"
        raise InputsError(
            f"driver-runfile: {what}: got {found}, expected lines with skip, targetdir and version_string"
        )
    start = 0
    for _ in range(int(said["skip"]) - 1):
        start = data.find(b"\n", start) + 1
        if start == 0 or start > _MAX_HEADER:
            raise InputsError(
                f"driver-runfile: {what}: line {said['skip']}, where its tar file should begin, is not within the "
                f"first {_MAX_HEADER >> 20} MiB"
            )
    compression = next((each for each in COMPRESSIONS if data.startswith(each.magic, start)), None)
    if compression is None:
        raise InputsError(
            f"driver-runfile: {what}: got {data[start : start + 6].hex() or 'nothing'} at byte {start}, expected a "
            "tar file compressed by zstd or xz"
        )
    return Header(said["targetdir"], said["version_string"], start, compression)


def _said(data: bytes, start: int) -> dict[str, str]:
    """The assignments that follow the first line; one that is there twice is refused like one that is missing."""
    found: dict[str, str] = {}
    twice = set()
    while (end := data.find(b"\n", start)) >= 0 and (line := _LINE.fullmatch(data, start, end)):
        name, value = line[1].decode(), line[3].decode()
        if name in found:
            twice.add(name)
        found[name] = value
        start = end + 1
    return {name: value for name, value in found.items() if name not in twice}


def copy_payload(file: BinaryIO, start: int, target: Path) -> None:
    """Copy the compressed tar file of a runfile, which begins at ``start``, to the new file ``target``."""
    file.seek(start)
    with target.open("xb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
