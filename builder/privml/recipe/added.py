"""Fields of a recipe: files that it adds, and exceptions that it declares."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from privml.recipe.exceptions import KINDS, NO_KIND
from privml.recipe.finding import RuleBroken
from privml.recipe.section import RECORDED, ROOT, Section, about, given, one_of


def _exception_kind(value: str) -> str:
    if value in NO_KIND:
        raise RuleBroken("exception-never", f"there is no exception `{value}`: {NO_KIND[value]}")
    return one_of(value, list(KINDS))


def relative(value: str, rule: str) -> str:
    """``value`` if it is the path of something below the recipe's folder; else ``rule`` is broken."""
    parts = value.removesuffix("/").split("/")
    if value.startswith("/") or not value.isprintable() or {"", ".."} & set(parts):
        raise RuleBroken(rule, f"got `{value}`, expected a path below the recipe's folder")
    return value


def _source(value: str) -> str:
    return relative(value, "file-source")


class AddedFile(Section):
    """A file or folder that is copied into the guest's root, where it belongs to root."""

    source: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=400), AfterValidator(_source)],
        about("The local file or folder, below the recipe's folder.", "files/settings.json", ROOT),
    ]
    executable: Annotated[
        bool | None,
        given("true or false; leave it out for the mode of each local file"),
        about("Whether the files are executable; by default as their owner may execute them here.", True, ROOT),
    ] = None


class DeclaredException(Section):
    """Something that weakens the guest, which every verifier must accept by name."""

    kind: Annotated[
        str,
        AfterValidator(_exception_kind),
        about("The kind of the exception.", next(iter(KINDS)), RECORDED),
        WithJsonSchema({"type": "string", "enum": list(KINDS)}),
    ]
    subject: Annotated[
        str,
        StringConstraints(pattern=r"^[!-~]+$", max_length=200),
        about("What it is about, as in the field that needs it.", "mitigations=off", RECORDED),
    ]
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("Why the image needs it; verifiers see this text.", "The engine is alone on the machine.", RECORDED),
    ]
