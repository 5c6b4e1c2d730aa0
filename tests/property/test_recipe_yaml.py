"""The loader returns a document or raises a RecipeError that names the file, for any bytes."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from privml.base.errors import RecipeError
from privml.recipe.document import Document, merged, parse
from privml.recipe.loader import shipped
from privml.recipe.models import Content
from privml.recipe.validation import validate

DEMO = (shipped() / "demo-cpu.yaml").read_bytes()
names = st.text("abcdefgh-", min_size=1, max_size=6).filter(lambda name: name.strip("-") == name)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(names, values, min_size=1, max_size=4)


def parsed(data: bytes) -> Document | None:
    try:
        return parse(data, "t")
    except RecipeError as error:
        assert error.message.startswith("t:")
        return None


@settings(max_examples=150)
@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!<#'\"\n ?|>%@1~", max_size=120).map(str.encode))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parsed(data)


@settings(max_examples=150)
@given(st.integers(0, len(DEMO) - 1), st.integers(0, 6), st.binary(max_size=4))
def test_a_damaged_recipe_is_loaded_or_refused_with_its_line(at: int, cut: int, put: bytes) -> None:
    document = parsed(DEMO[:at] + put + DEMO[at + cut :])
    if document is not None:
        try:
            validate(document, Content)
        except RecipeError as error:
            assert all(line.startswith("t:") for line in error.message.splitlines())


@settings(max_examples=100)
@given(mappings)
def test_json_is_read_unchanged(value: dict[str, object]) -> None:
    document = parsed(json.dumps(value, ensure_ascii=False).encode())
    if document is not None:
        assert document.value == value


@settings(max_examples=100)
@given(mappings, mappings)
def test_every_merged_path_has_a_mark(child: dict[str, object], parent: dict[str, object]) -> None:
    over, under = (parsed(json.dumps(value).encode()) for value in (child, parent))
    if over is None or under is None:
        return
    both = merged(over, under, over.marks[()])

    def paths(value: object, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
        found = {path}
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            found |= paths(item, (*path, key))
        return found

    def taken(over: object, under: object, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
        """Fields that the child removes; an error about a missing one names the line with the null."""
        if not isinstance(over, dict) or not isinstance(under, dict):
            return {path} if over is None else set()
        return set().union(*(taken(over[key], under[key], (*path, key)) for key in over.keys() & under.keys()))

    assert set(both.marks) == paths(both.value, ()) | taken(over.value, under.value, ())
