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
class ExpectedModel:
    """A model of an image: its revision in its source, and who signed it, as whoever locked it checked."""

    name: str
    revision: str | None = None
    signer: str | None = None

    def __str__(self) -> str:
        signed = "not signed" if self.signer is None else f"signed by {self.signer}"
        return f"{self.name}, {f'revision {self.revision}' if self.revision else 'no revision'}, {signed}"


@dataclass(frozen=True)
class Expected:
    """The expected measurements of an image, their source, and the models, where the source names them."""

    predicate: Predicate
    anchor: Anchor
    models: tuple[ExpectedModel, ...] = ()
