"""The artefacts of an image: their names, their record in the manifest, and checks against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError
from privml.base.files import sha256_file
from privml.base.strictjson import Fields
from privml.events import volumes

UKI = "uki.efi"
ROOT = "root.raw"
DISK = "disk.raw"
"""The one disk of an image that boots from it, assembled from the UKI and the volumes."""
FIRMWARE: Mapping[str, str] = {"tdx": "firmware.fd", "snp": "firmware-snp.fd"}
"""The file of the firmware that starts a guest, for each TEE."""
MAX_ARTEFACTS = 64
_AGAIN = "build it again with `privml-build image NAME`"


@dataclass(frozen=True)
class Artefact:
    """Digest (hex SHA-256) and size of one artefact."""

    sha256: str
    size: int


def artefacts_from(fields: Fields) -> dict[str, Artefact]:
    """Decode the member ``artefacts`` of a manifest; ``EvidenceError`` if it is malformed."""
    names = sorted(fields.names())
    if len(names) > MAX_ARTEFACTS:
        raise EvidenceError(f"{fields.path}: {len(names)} artefacts, expected at most {MAX_ARTEFACTS}")
    found = {}
    for name in names:
        if "/" in name or name in ("", ".", "..") or not name.isprintable():
            raise EvidenceError(f"{fields.path}: `{name[:80]}` is not a plain file name")
        inner = fields.fields(name)
        found[name] = Artefact(inner.hexadecimal("sha256", 32).hex(), inner.integer("size"))
        inner.end()
    return found


def is_volume(name: str) -> bool:
    """True for the file of one of the image's disks."""
    return name == ROOT or volumes.slot_of(name) is not None


def artefact(path: Path) -> Artefact:
    """Digest and size of a file."""
    return Artefact(sha256_file(path), path.stat().st_size)


def check_artefacts(directory: Path, artefacts: Mapping[str, Artefact]) -> None:
    """Raise ``BuildError`` if an artefact is missing or its digest differs; every byte is read."""
    for name, expected in artefacts.items():
        check_artefact(directory / name, expected)


def check_artefact(path: Path, expected: Artefact, sha256: Callable[[Path], str] = sha256_file) -> None:
    """Raise ``BuildError`` if ``path`` is missing or not ``expected``; ``sha256`` computes a file's digest."""
    if not path.is_file():
        raise BuildError(f"{path} is missing", hint=_AGAIN)
    size = path.stat().st_size
    if size != expected.size or sha256(path) != expected.sha256:
        raise BuildError(
            f"{path} does not match manifest.json: got {size} bytes, expected {expected.size} bytes "
            f"with sha256 {expected.sha256}",
            hint=_AGAIN,
        )
