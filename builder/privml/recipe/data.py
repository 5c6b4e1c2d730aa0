"""Fields of a recipe: data that its services read, each in a volume of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from privml.recipe import modelsource
from privml.recipe.encryption import Encrypt
from privml.recipe.modelsource import Local
from privml.recipe.section import CONFIG, Section, Slug, about, given

_BEGIN = "file:"


def _source(value: str) -> str:
    if not value.startswith(_BEGIN):
        raise ValueError(f"got `{value}`, expected `file:PATH` of a file, or of a folder, which ends with `/`")
    modelsource.parse(value)
    return value


class Data(Section):
    """Data for the services, in a volume that is mounted read-only."""

    name: Annotated[
        Slug,
        about("Its name: the services find it in /run/privml-data/NAME. It also seeds the volume.", "corpus", CONFIG),
    ]
    source: Annotated[
        str,
        AfterValidator(_source),
        about(
            "A file, or a folder with all that is in it, next to the recipe; a folder's path ends with `/`.",
            "file:data/corpus/",
            CONFIG,
        ),
        WithJsonSchema({"type": "string", "maxLength": modelsource.MAX_LENGTH, "pattern": r"^file:[^/].*$"}),
    ]
    encrypt: Annotated[
        Encrypt | None,
        given("`broker` and `resource`; leave it out for a volume that anyone can read"),
        about(
            "Whose key encrypts the volume. The guest waits for the key before it opens any volume.",
            "{broker: partner, resource: data/corpus}",
            CONFIG,
        ),
    ] = None

    @property
    def origin(self) -> Local:
        """Where the files are."""
        found = modelsource.parse(self.source)
        assert isinstance(found, Local)
        return found
