"""Wheels made by tests: well-formed, or with one rule of the format broken."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence

from privml.lock.models import Wheel
from privml.store.objects import Store

TAG = "py3-none-any"


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def info(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}.dist-info"


def files_of(
    name: str, version: str, files: Mapping[str, bytes], *, tag: str = TAG, metadata: Sequence[str] = ()
) -> dict[str, bytes]:
    """The files of a wheel without RECORD."""
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *metadata]
    folder = info(name, version)
    return {
        **files,
        f"{folder}/METADATA": "".join(f"{line}\n" for line in lines).encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }


def record(files: Mapping[str, bytes], folder: str) -> bytes:
    rows = [f"{name},sha256={digest(data)},{len(data)}\n" for name, data in files.items()]
    return "".join([*rows, f"{folder}/RECORD,,\n"]).encode()


def packed(entries: Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries:
            made = zipfile.ZipInfo(entry) if isinstance(entry, str) else entry
            made.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(made, data)
    return buffer.getvalue()


def wheel_bytes(
    name: str, version: str, files: Mapping[str, bytes], *, tag: str = TAG, metadata: Sequence[str] = ()
) -> bytes:
    """A well-formed wheel."""
    folder = info(name, version)
    all_files = files_of(name, version, files, tag=tag, metadata=metadata)
    return packed([*all_files.items(), (f"{folder}/RECORD", record(all_files, folder))])


def locked(store: Store, name: str, version: str, data: bytes, *, tag: str = TAG) -> Wheel:
    """The lock's record of a wheel, which the store keeps."""
    file = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    return Wheel(name=name, version=version, file=file, sha256=store.add_bytes(data), size=len(data))
