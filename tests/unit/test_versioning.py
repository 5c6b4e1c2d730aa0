"""docs/VERSIONING.md lists every format that the code writes or reads, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from privml.recipe.models import Content

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/VERSIONING.md").read_text()
NAME = re.compile(r"(privml-[a-z-]+/v\d+|https://privml-build\.dev/[a-z/-]+/v\d+)")
# A leaf of report data's tree has the version of the report data.
INSIDE = {"privml-nonce/v1"}


def formats() -> set[str]:
    """Every constant in the package that is the name of a format."""
    found = set()
    for path in (ROOT / "builder/privml").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                if match := NAME.fullmatch(text.rstrip("\0")):
                    found.add(match[1])
    return found


def test_each_format_has_a_place_in_the_page() -> None:
    assert set(NAME.findall(PAGE)) == formats() - INSIDE


def test_the_recipe_s_schema_is_the_one_that_is_read() -> None:
    (number,) = re.findall(r"`schema: (\d+)`", PAGE)
    assert Content.model_fields["schema_"].annotation is not None
    assert number in str(Content.model_fields["schema_"].annotation)
