"""What a lock has of models and data: their sources and their files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from privml.lock.record import Record, RelativePath, Sha256, Size, Text
from privml.recipe.inference import Word

CHAT_TEMPLATE = "chat_template.jinja"
"""Name of a recipe's chat template in the model's volume."""


class ModelFile(Record):
    """One file of a model or of data, with its path in the source."""

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
    """A file next to the recipe, with further files of the model next to it; or a folder, if it ends with a slash."""

    local: Annotated[str, StringConstraints(pattern=r"^[^/].*$", max_length=2000), AfterValidator(_to_a_file)]

    def place(self, folder: Path, file: ModelFile) -> Path:
        """Where ``file`` is, for a recipe in ``folder``."""
        return self.place_of(folder, file.path)

    def place_of(self, folder: Path, name: str) -> Path:
        """Where the model's file ``name`` is, for a recipe in ``folder``."""
        local = PurePosixPath(self.local)
        return folder / (local / name if self.local.endswith("/") else local.with_name(name))


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


class Signature(Record):
    """A signature that was checked when the model was locked: who signed, and the signature file's SHA-256.

    Of a signer ``key``, ``key_id`` is the SHA-256 of the public key, a SubjectPublicKeyInfo in DER. Of a signer
    ``identity``, ``subject`` is the account that Sigstore certified, and ``issuer`` who vouched for it.
    """

    signer: Literal["key", "identity"]
    key_id: Sha256 | None = None
    subject: Word | None = None
    issuer: Word | None = None
    sha256: Sha256

    @model_validator(mode="after")
    def _of_one_kind(self) -> Signature:
        by_key = self.signer == "key"
        if (self.key_id is not None) != by_key or any(
            (each is None) != by_key for each in (self.subject, self.issuer)
        ):
            raise ValueError("expected `key_id` of a key, or `subject` and `issuer` of an identity")
        return self

    def __str__(self) -> str:
        return f"key {self.key_id}" if self.signer == "key" else f"identity {self.subject} ({self.issuer})"


class Model(Record):
    """A model: its name in the recipe, its files, its licence by recipe or source, and its signature (null: none).

    Files from a wheel are inside it. All others are objects of the store themselves, and so is a chat template.
    """

    name: Text
    source: ModelSource
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    licence: Text | None
    signature: Signature | None
    chat_template: ModelFile | None = None

    @property
    def content(self) -> tuple[ModelFile, ...]:
        """What is in the volume: the model's files, and the recipe's chat template, which replaces the model's own.

        The template has its path in the recipe's folder.
        """
        if self.chat_template is None:
            return self.files
        kept = (file for file in self.files if PurePosixPath(file.path).name != CHAT_TEMPLATE)
        return (*kept, self.chat_template)

    @property
    def fetched(self) -> tuple[ModelFile, ...]:
        """The files that its source has as objects of their own."""
        return () if isinstance(self.source, WheelSource) else self.files

    @property
    def objects(self) -> tuple[ModelFile, ...]:
        """The files that are objects of the store themselves."""
        return self.fetched if self.chat_template is None else (*self.fetched, self.chat_template)


class Data(Record):
    """Data of the services: its name in the recipe and its files, which are objects of the store themselves.

    The files of a folder have their paths in it.
    """

    name: Text
    source: LocalSource
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    chat_template: ClassVar[None] = None

    @property
    def content(self) -> tuple[ModelFile, ...]:
        """What is in the volume."""
        return self.files

    @property
    def fetched(self) -> tuple[ModelFile, ...]:
        """The files that its source has as objects of their own."""
        return self.files

    @property
    def objects(self) -> tuple[ModelFile, ...]:
        """The files that are objects of the store themselves."""
        return self.files


Volume = Model | Data
"""What a lock has of a volume besides the root."""
