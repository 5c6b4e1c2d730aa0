"""Fields of a recipe: how its root is compressed."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from privml.recipe.distributions import Version
from privml.recipe.section import ROOT, Section, about, one_of


@dataclass(frozen=True)
class Compression:
    """How the erofs of a root is compressed.

    ``algorithm`` and ``level`` are given to the program that makes it. ``cluster`` is the number of bytes that are
    compressed together, None for one block; a guest reads and unpacks a whole cluster to get a part of it. Kernels
    from ``since`` on can read it, if they were built so.
    """

    algorithm: str
    level: int
    cluster: int | None
    since: Version

    @property
    def word(self) -> str:
        """Algorithm and level as in a partition's definition."""
        return f"{self.algorithm},{self.level}"


DEFAULT = "lz4"
COMPRESSIONS = MappingProxyType(
    {
        DEFAULT: Compression("lz4hc", 9, None, (5, 4)),
        "zstd": Compression("zstd", 3, 64 << 10, (6, 10)),
    }
)
"""Every compression of a root that a recipe may ask for, by its name there."""


def _known(value: str) -> str:
    return one_of(value, list(COMPRESSIONS))


class Root(Section):
    """The root volume of the guest."""

    compression: Annotated[
        str,
        AfterValidator(_known),
        about("lz4 for blocks that are read fast; zstd for large roots, which become a third smaller.", "zstd", ROOT),
        WithJsonSchema({"type": "string", "enum": list(COMPRESSIONS)}),
    ] = DEFAULT
