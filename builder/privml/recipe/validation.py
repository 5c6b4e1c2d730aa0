"""Validate a parsed document against a model and report all problems with file, line, field and a suggestion."""

from __future__ import annotations

import difflib
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from privml.base.errors import printable
from privml.recipe import wishes
from privml.recipe.document import Document, Mark, Path, nearest, spelled
from privml.recipe.finding import Finding, RecipeProblems, RuleBroken

AnyModel = TypeVar("AnyModel", bound=BaseModel)

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "fields",
    "model_type": "fields",
    "model_attributes_type": "fields",
}


def validate(document: Document, model: type[AnyModel]) -> AnyModel:
    """Build ``model``; ``RecipeProblems`` with one line per problem, in file order."""
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        problems = []
        for number, problem in enumerate(error.errors(include_url=False)):
            path = nearest(tuple(problem["loc"]), document.marks)
            mark = document.marks[path]
            # Name the missing field itself, and its position in the other file.
            shown = tuple(problem["loc"]) if problem["type"] == "missing" else path
            said = f"{spelled(shown)}: {_said(problem, model)}" if shown else _said(problem, model)
            broken = problem.get("ctx", {}).get("error")
            finding = Finding(
                text=printable(said + document.counterpart(shown)),
                rule=broken.rule if isinstance(broken, RuleBroken) else "",
                file=mark.file,
                line=mark.line,
            )
            problems.append((mark.file, mark.line, number, finding))
        problems.sort(key=lambda entry: entry[:3])
        raise RecipeProblems([finding for *_, finding in problems]) from error


def mark_of(path: Path, document: Document) -> Mark:
    """The mark of ``path`` or of its nearest marked parent."""
    return document.marks[nearest(path, document.marks)]


def _said(problem: Any, model: type[BaseModel]) -> str:
    kind, given, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        name, known = str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1])
        if (said := wishes.answer(name)) is not None:
            return f"unknown field; {said}"
        near = difflib.get_close_matches(name, known, n=1)
        return f"unknown field; did you mean `{near[0]}`?" if near else f"unknown field; known: {', '.join(known)}"
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        allowed = _allowed(context)
        near = difflib.get_close_matches(str(given), allowed, n=1)
        guess = f"; did you mean `{near[0]}`?" if near and near[0] != str(given) else ""
        return f"got `{given}`, expected {' or '.join(allowed)}{guess}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"got `{given}`, expected text of the form {context['pattern']}"
    if kind in _KINDS:
        return f"got {_shown(given)}, expected {_KINDS[kind]}"
    message = str(problem["msg"])
    return f"got {_shown(given)}: {message[:1].lower()}{message[1:]}"


def _allowed(context: Any) -> list[str]:
    return [word.strip(" '") for word in str(context["expected"]).replace(" or ", ",").split(",")]


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"`{str(value)[:80]}`"


def _fields_at(model: type[BaseModel], loc: Path) -> list[str]:
    """The field names of the model at ``loc``."""
    found: Any = model
    keyed = False
    for part in loc:
        if isinstance(part, int) or keyed:
            keyed = False
            continue
        fields = {(info.alias or name): info for name, info in found.model_fields.items()}
        if part not in fields:
            return []
        annotation = fields[part].annotation
        found, keyed = model_in(annotation), typing.get_origin(annotation) is dict
        if found is None:
            return []
    return [info.alias or name for name, info in found.model_fields.items()]


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of an annotation, or of its list items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := model_in(argument):
            return found
    return None
