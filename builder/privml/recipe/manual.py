"""The manual page of recipes and platforms (docs/RECIPES.md), generated from the models."""

from __future__ import annotations

from collections.abc import Iterable

from privml.recipe.fields import PLATFORM, Fact, facts
from privml.recipe.rules import RULES

FILE = "RECIPES.md"

_HEAD = """# Recipes, field by field

Generated from the models by `python -m privml.image.schemas`; `lint --explain FIELD` prints the same. For the ideas
behind the fields, and a walk through a first recipe, see [BUILDING.md](BUILDING.md).

A field that is not listed here is refused, and so is one that is given twice. `moves` names the registers that change
with the field.
"""
_RECIPE = "## A recipe (`recipes/NAME.yaml`)"
_PLATFORM = "## A platform (`recipes/platforms/NAME.yaml`)"
_RULES = """## Rules

Beside types and bounds, `lint` applies these rules. An error ends the build (exit 3); a warning does not.
"""


def page() -> str:
    """The page as Markdown."""
    known = facts()
    recipe = [fact for path, fact in known.items() if path.split(".")[0] != PLATFORM]
    platform = [fact for path, fact in known.items() if path.split(".")[0] == PLATFORM]
    rules = ["| rule | kind | what | why |", "|---|---|---|---|"]
    for rule in RULES.values():
        rules.append(f"| `{rule.id}` | {rule.severity} | {_cell(rule.what)} | {_cell(rule.why)} |")
    parts = [_HEAD, _RECIPE, *_fields(recipe), _PLATFORM, *_fields(platform), _RULES, "\n".join(rules)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _fields(given: Iterable[Fact]) -> list[str]:
    parts = []
    for fact in given:
        lines = [f"### `{fact.path}`", "", fact.meaning, "", f"- type: {fact.kind}", f"- default: {fact.default}"]
        lines.append(f"- moves: {', '.join(fact.moves) or 'no register'}")
        if fact.example:
            lines += ["", f"      {fact.path.rpartition('.')[2]}: {fact.example}"]
        parts.append("\n".join(lines))
    return parts


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
