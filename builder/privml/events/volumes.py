"""Names of the volumes besides the root: models, and data that the image's own services read.

Number 0 is the first volume of its kind in the measured configuration, 1 the second, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

DATA_DIRECTORY = "/run/privml-data"
"""Holds the mount points of data volumes. Only the users of the image's own services may enter it."""


@dataclass(frozen=True)
class Kind:
    """What volumes hold: the stem of their names, and the most that one image has."""

    name: str
    most: int

    def stem(self, number: int) -> str:
        """``model``, ``model-2``, ...: the stem of the other names."""
        return self.name if number == 0 else f"{self.name}-{number + 1}"

    def file(self, number: int) -> str:
        """The file in an output directory: ``model.raw``, ``model-2.raw``, ..."""
        return f"{self.stem(number)}.raw"

    def partition(self, number: int) -> str:
        """The GPT name of the data partition; its hash tree is ``<partition>-verity``."""
        return f"privml-{self.stem(number)}"


MODEL = Kind("model", 32)
DATA = Kind("data", 8)
KINDS = (MODEL, DATA)
"""All kinds, in the order of the volumes in an image."""


@dataclass(frozen=True)
class Slot:
    """The place of one volume in an image: its kind, and its number there (from 0)."""

    kind: Kind
    number: int

    @property
    def file(self) -> str:
        """`Kind.file` of the volume."""
        return self.kind.file(self.number)

    @property
    def partition(self) -> str:
        """`Kind.partition` of the volume."""
        return self.kind.partition(self.number)


def slots(models: int, data: int) -> tuple[Slot, ...]:
    """The volumes of an image with so many of each kind, in their order."""
    return tuple(
        Slot(kind, number) for kind, count in zip(KINDS, (models, data), strict=True) for number in range(count)
    )


def slot_of(file: str) -> Slot | None:
    """The volume whose file in an output directory is ``file``; None if it is not one of a model or data."""
    known = (Slot(kind, number) for kind in KINDS for number in range(kind.most))
    return next((slot for slot in known if slot.file == file), None)


def directory(number: int) -> str:
    """The guest's mount point of model volume ``number``: ``/run/privml/model``, ``/run/privml/model-2``, ..."""
    return f"/run/privml/{MODEL.stem(number)}"


def data_directory(name: str) -> str:
    """The guest's mount point of the data volume ``name``."""
    return f"{DATA_DIRECTORY}/{name}"
