"""Identify an arbitrary file by its content and describe it."""

from __future__ import annotations

from pathlib import Path

from privml.base.errors import EvidenceError, MeasurementError, printable
from privml.measure import artefact
from privml.readers import source
from privml.readers.file import File


def read(path: Path) -> File:
    """Read and identify ``path`` (``-``: standard input).

    ``MeasurementError`` if its content is unknown or malformed, ``EvidenceError`` if it is malformed evidence.
    """
    try:
        return _identified(path)
    except (MeasurementError, EvidenceError) as error:
        # Parsers of formats do not know the name of the file.
        name = printable(str(path))
        if name in error.message:
            raise
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error


def _identified(path: Path) -> File:
    with source.opened(path) as view:
        found = artefact.identify_by_magic(view)
        if found is not None:
            return File(path, found)
        # Readers of evidence, statements and wrappings take longer to load than a firmware takes to measure.
        from privml.readers import contents

        return contents.identify(path, view)
