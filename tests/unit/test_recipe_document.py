"""The strict YAML subset of recipes."""

from __future__ import annotations

import pytest

from privml.base.errors import RecipeError
from privml.recipe.document import MAX_BYTES, Mark, merged, parse, spelled


def test_marks_name_the_line_of_each_field() -> None:
    document = parse(b"a: 1\nb:\n  c: [x, {d: 2}]\n  e:\n    - f\n", "recipes/t.yaml")
    assert document.value == {"a": 1, "b": {"c": ["x", {"d": 2}], "e": ["f"]}}
    assert document.marks[("b", "c", 1, "d")] == Mark("recipes/t.yaml", 3)
    assert document.marks[("b", "e", 0)].line == 5


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "Yes", "OFF", "True", "1.5", "0x10", "1e3", "2026-11-21", "01"]
)
def test_words_that_yaml_1_1_would_convert_stay_text(word: str) -> None:
    assert parse(f"a: {word}\n".encode(), "t").value == {"a": word}


def test_only_yaml_1_2_words_are_converted() -> None:
    value = parse(b"a: true\nb: false\nc: null\nd: -12\ne: '12'\nf: ''\n", "t").value
    assert value == {"a": True, "b": False, "c": None, "d": -12, "e": "12", "f": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "t:3: a: given twice, first in line 1"),
        ("x: {a: 1, a: 2}\n", "t:1: x.a: given twice"),
        ("a: &x 1\n", "t:1: recipes cannot have anchors"),
        ("a: 1\nb: *x\n", "t:2: recipes cannot have anchors"),
        ("a: {<<: {b: 1}}\n", "t:1: recipes cannot have merge keys"),
        ("a: !!python/object:os.system x\n", "t:1: recipes cannot have tags"),
        ("a: !!str 1\n", "t:1: recipes cannot have tags"),
        ("? [a]\n: 1\n", "t:1: expected a plain word as a field name"),
        ("- 1\n", "t:1: expected fields"),
        ("", "t:1: expected fields"),
        ("a: 1\n---\nb: 2\n", "t:2: "),
        ("a: [1\n", "t:2: "),
        ("a: 1\n\tb: 2\n", "t:2: "),
        ("a: 1234567890123456\n", "t:1: a: the number is too large"),
        ("a: \x00\n", "t: "),
        ("a: 1\nb: x\u2028c: 2\n", "t:2: recipes cannot have the character U+2028"),
        ('a: "\\ud800"\n', "t:1: a: lone surrogate"),
        ('"\\udfff": 1\n', "lone surrogate in a field name"),
        ("a: " + "[" * 9 + "]" * 9, "nested deeper than 8"),
        ("a: " + "[" * 5000, "nested deeper than 8"),
    ],
)
def test_ambiguous_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text.encode(), "t")
    assert message in caught.value.message
    assert caught.value.message.startswith("t:")


def test_size_and_encoding_are_checked() -> None:
    with pytest.raises(RecipeError, match="expected at most"):
        parse(b"#" * (MAX_BYTES + 1), "t")
    with pytest.raises(RecipeError, match="t:2: not UTF-8"):
        parse(b"a: 1\nb: \xff\n", "t")


def test_merged_marks_name_the_right_file() -> None:
    parent = parse(b"a: {x: 1, y: 2}\nl: [1, {z: 2}]\nk: 1\n", "parent")
    child = parse(b"\n\na: {y: 3}\nl: [9]\n", "child")
    both = merged(child, parent, Mark("child", 1))
    assert both.value == {"a": {"x": 1, "y": 3}, "l": [9], "k": 1}
    assert str(both.marks[("a", "x")]) == "parent:1"
    assert str(both.marks[("a", "y")]) == "child:3"
    assert str(both.marks[("l", 0)]) == "child:4"
    assert ("l", 1) not in both.marks
    assert ("l", 1, "z") not in both.marks
    assert str(both.marks[("k",)]) == "parent:3"


def test_a_merged_document_knows_the_other_file_of_each_field() -> None:
    parent = parse(b"a: {x: 1, y: 2}\nk: 1\n", "parent")
    child = parse(b"\n\na: {y: 3}\nn: 4\n", "child")
    both = merged(child, parent, Mark("child", 1))
    assert both.counterpart(("a", "x")) == " (extended by child:1)"
    assert both.counterpart(("a", "y")) == " (overrides parent:1)"
    assert both.counterpart(("n",)) == " (extends parent:1)"
    assert both.counterpart(()) == " (overrides parent:1)"
    assert parent.counterpart(("k",)) == ""


def test_paths_are_spelled_with_dots_and_brackets() -> None:
    assert spelled(("shapes", 1, "memory")) == "shapes[1].memory"
