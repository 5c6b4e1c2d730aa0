"""The folder of published measurements: reading its files, as a repository is followed (`statement.follow`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError, UsageError
from privml.base.files import read_start
from privml.statement import follow, image
from privml.statement.follow import Fetch, metadata_path
from privml.statement.image import Image
from privml.statement.metadata import MAX_METADATA, ROOT
from privml.statement.update import Memory, Update

MEASUREMENTS = "measurements"
"""The folder of a project's published measurements, below its checkout."""


def fetch_from(folder: Path) -> Fetch:
    """A way to fetch files below ``folder``; ``HostError`` for one that is there and cannot be read."""

    def fetch(path: str, limit: int) -> bytes | None:
        place = folder / path
        try:
            return read_start(place, limit) if place.is_file() else None
        except OSError as error:
            raise HostError(f"{place} cannot be read: {error.strerror or error}") from error

    return fetch


@dataclass(frozen=True)
class Held:
    """All images of a repository, checked from its own first root, whose SHA-256 (hex) is ``root_sha256``.

    So everything in it belongs together; whether that root is one to rely on is for the caller to know.
    """

    root_sha256: str
    update: Update
    images: tuple[Image, ...]


def held(folder: Path) -> Held:
    """Read the repository in ``folder``; ``UsageError`` if there is none.

    ``UntrustedError`` or ``EvidenceError`` if it was altered since it was signed.
    """
    fetch = fetch_from(folder)
    first = fetch(metadata_path(ROOT, 1), MAX_METADATA)
    if first is None:
        raise UsageError(
            f"{folder} has no {metadata_path(ROOT, 1)}, expected a repository of published measurements",
            hint="name the folder that holds the images and `tuf`; `privml-build publish root` begins one",
        )
    update = follow.follow(fetch, first, Memory())
    images = tuple(image.read(update, fetch, name) for name in sorted(update.published))
    return Held(hashlib.sha256(first).hexdigest(), update, images)
