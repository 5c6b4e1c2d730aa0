"""How models of each format lie in their source, one record each."""

from __future__ import annotations

from dataclasses import dataclass

GGUF, SAFETENSORS = "gguf", "safetensors"


@dataclass(frozen=True)
class ModelFormat:
    """A format of models: with ``folder``, a model is all files of a folder; else one file, which may be split."""

    name: str
    title: str
    folder: bool

    @property
    def layout(self) -> str:
        """What a model of this format is."""
        return "folders" if self.folder else "files"


FORMATS = {
    each.name: each
    for each in (ModelFormat(GGUF, "GGUF", folder=False), ModelFormat(SAFETENSORS, "safetensors", folder=True))
}
"""Model formats by the name that engine records use."""
