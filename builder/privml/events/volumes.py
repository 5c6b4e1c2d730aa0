"""Names of the model volumes: the first is ``model``, the next ``model-2``, ``model-3``, ...

Number 0 is the first model of the measured configuration, 1 the second, and so on.
"""

from __future__ import annotations

MAX_MODELS = 32
_STEM = "model"


def name(number: int) -> str:
    """``model``, ``model-2``, ...: the stem of the other names."""
    return _STEM if number == 0 else f"{_STEM}-{number + 1}"


def file(number: int) -> str:
    """The file in an output directory: ``model.raw``, ``model-2.raw``, ..."""
    return f"{name(number)}.raw"


def partition(number: int) -> str:
    """The GPT name of the data partition; its hash tree is ``<partition>-verity``."""
    return f"privml-{name(number)}"


def directory(number: int) -> str:
    """The guest's mount point of the volume: ``/run/privml/model``, ``/run/privml/model-2``, ..."""
    return f"/run/privml/{name(number)}"
