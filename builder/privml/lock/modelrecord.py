"""A locked model: its source and its files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from privml.lock.record import Record, RelativePath, Sha256, Size, Text


class ModelFile(Record):
    """One file of a model, with its path in the source."""

    path: RelativePath
    size: Size
    sha256: Sha256


class WheelSource(Record):
    """Files of a wheel listed in ``python``: the matches of ``pattern``."""

    wheel: Text
    pattern: Text


def _to_a_file(path: str) -> str:
    if PurePosixPath(path).name in ("", ".."):
        raise ValueError("expected the relative path of a file")
    return path


class LocalSource(Record):
    """A file next to the recipe; further files of the model are next to it."""

    local: Annotated[str, StringConstraints(pattern=r"^[^/].*$", max_length=2000), AfterValidator(_to_a_file)]

    def place(self, folder: Path, file: ModelFile) -> Path:
        """Where ``file`` is, for a recipe in ``folder``."""
        return folder / PurePosixPath(self.local).with_name(file.path)


class UrlSource(Record):
    """A file at a web address, or files below one that ends with a slash."""

    url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]+$", max_length=2000)]


class HubSource(Record):
    """Files of a repository on a model hub at one commit. It names no host."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$", max_length=200)]
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]


_SOURCES: dict[str, type[Record]] = {"wheel": WheelSource, "local": LocalSource, "url": UrlSource, "repo": HubSource}


def _kind_of_source(value: object) -> str | None:
    names = value if isinstance(value, dict) else vars(value) if isinstance(value, Record) else {}
    return next((f"[{name}]" for name in _SOURCES if name in names), None)


ModelSource = Annotated[
    Annotated[WheelSource, Tag("[wheel]")]
    | Annotated[LocalSource, Tag("[local]")]
    | Annotated[UrlSource, Tag("[url]")]
    | Annotated[HubSource, Tag("[repo]")],
    Discriminator(
        _kind_of_source,
        custom_error_type="source",
        custom_error_message=f"expected one of the fields {', '.join(_SOURCES)}",
    ),
]


class Model(Record):
    """A model: its name in the recipe, its files, and its licence by recipe or source (null: none).

    Files from a wheel are inside it. All others are objects of the store themselves.
    """

    name: Text
    source: ModelSource
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    licence: Text | None
    # Reserved for a later version and always empty until then, as is `blobs`.
    signature: None

    @property
    def objects(self) -> tuple[ModelFile, ...]:
        """The files that are objects of the store themselves."""
        return () if isinstance(self.source, WheelSource) else self.files
