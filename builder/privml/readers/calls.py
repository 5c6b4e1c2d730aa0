"""The library's ``privml.measure``: identify a file and measure it."""

from __future__ import annotations

import os
from pathlib import Path

from privml.measure.description import Description
from privml.readers import files


def measure(path: str | os.PathLike[str]) -> Description:
    """Identify the file at ``path`` by its content and measure it, as `privml-build measure FILE` does.

    The result has ``kind``, ``title``, ``mrtd``, ``registers``, ``events``, ``facts`` and ``notes``. ``UsageError``
    when there is no such file, ``MeasurementError`` when its content is not recognised, or is malformed.
    """
    return files.read(Path(path)).description
