"""The folder of published measurements: reading its files, as a repository is followed (`statement.follow`)."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import HostError
from privml.base.files import read_start
from privml.statement.follow import Fetch


def fetch_from(folder: Path) -> Fetch:
    """A way to fetch files below ``folder``; ``HostError`` for one that is there and cannot be read."""

    def fetch(path: str, limit: int) -> bytes | None:
        place = folder / path
        try:
            return read_start(place, limit) if place.is_file() else None
        except OSError as error:
            raise HostError(f"{place} cannot be read: {error.strerror or error}") from error

    return fetch
