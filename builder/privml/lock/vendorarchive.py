"""Read one of the vendor's archives: a tar file compressed by xz, with one folder that has name and version.

The archives are small, so they are unpacked here, with a bound on size and memory, and need no program of the tools.
"""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from tarfile import TarFile
from typing import BinaryIO

from privml.base.errors import InputsError
from privml.lock import vendortar

RULE = "gpu-ppcie"
MAX_TAR = 1 << 30
"""The largest tar file that is unpacked; that of Fabric Manager has about 60 MiB."""
_MEMORY = 256 << 20
_CHUNK = 1 << 20


def read(file: BinaryIO, folder: str, wanted: Collection[str], what: str) -> dict[str, bytes]:
    """The content of the files ``wanted``, by their path in ``folder``, which must be the archive's only one."""
    said = f"{RULE}: {what}"
    with _opened(file, said) as archive:
        tops = {name.partition("/")[0] for name, _ in vendortar.entries(archive, said)} - {"."}
        if tops != {folder}:
            found = ", ".join(sorted(tops)[:4]) or "nothing"
            raise InputsError(
                f"{said}: got an archive with {found}, expected the folder {folder}",
                hint="compare address and SHA-256 with those that the vendor publishes for the driver's version",
            )
        content = vendortar.read(archive, {f"{folder}/{name}" for name in wanted}, said)
    return {name: content[f"{folder}/{name}"] for name in wanted}


@contextmanager
def _opened(file: BinaryIO, said: str) -> Iterator[TarFile]:
    with tempfile.TemporaryFile() as unpacked:
        _unpack(file, unpacked, said)
        unpacked.seek(0)
        with vendortar.opened(unpacked, said) as archive:
            yield archive


def _unpack(file: BinaryIO, target: BinaryIO, said: str) -> None:
    """Unpack one xz stream; a small file can unpack to one that fills the disk."""
    file.seek(0)
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    size = 0
    try:
        while not stream.eof:
            given = file.read(_CHUNK) if stream.needs_input else b""
            if stream.needs_input and not given:
                raise InputsError(f"{said}: it ends before its content does")
            data = stream.decompress(given, _CHUNK)
            size += len(data)
            if size > MAX_TAR:
                raise InputsError(f"{said}: it unpacks to more than {MAX_TAR >> 20} MiB")
            target.write(data)
    except lzma.LZMAError as error:
        raise InputsError(f"{said}: it is not a file compressed by xz: {error}") from error
    if stream.unused_data or file.read(1):
        raise InputsError(f"{said}: there are bytes after its content")
