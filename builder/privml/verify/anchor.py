"""The source of the expected measurements, named in the first line of a verdict. `client.anchors` creates them."""

from __future__ import annotations

from dataclasses import dataclass

from privml.statement.predicate import Predicate


@dataclass(frozen=True)
class Built:
    """An image that the caller built, in this output directory."""

    directory: str

    def __str__(self) -> str:
        return f"the build in {self.directory}"


@dataclass(frozen=True)
class Signed:
    """A published version of an image, and who signed it."""

    name: str
    version: str
    signers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version} signed by {', '.join(self.signers)}"


Anchor = Built | Signed


@dataclass(frozen=True)
class Expected:
    """The expected measurements of an image and their source."""

    predicate: Predicate
    anchor: Anchor
