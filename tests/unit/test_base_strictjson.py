"""Strict JSON: unambiguous when read, canonical when written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import EvidenceError
from privml.base.strictjson import MAX_DEPTH, Fields, b64, canonical, loads, pretty, unb64, unhex

LIMIT = 2**53 - 1
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-LIMIT, LIMIT) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_and_pretty_json_round_trip(value: object) -> None:
    assert loads(canonical(value)) == value
    assert loads(pretty(value)) == value
    assert canonical(loads(pretty(value))) == canonical(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785 section 3.2.2 and 3.2.3, within the restriction (no floats, ASCII keys)
        (
            {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False]},
            '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
        ),
        (
            {"1": {"f": {"f": "hi", "F": 5}, "\n": 56}, "": "empty"},
            '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}}}',
        ),
        ({"b": 1, "a": 2, "aa": 3, "A": 4}, '{"A":4,"a":2,"aa":3,"b":1}'),
        ("\b\t\n\f\r\x00\x1f\x7f\u2028", '"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"'),
        ([0, -1, LIMIT, -LIMIT, ""], f'[0,-1,{LIMIT},{-LIMIT},""]'),
        ({}, "{}"),
    ],
)
def test_canonical_is_rfc_8785(value: object, expected: str) -> None:
    assert canonical(value) == expected.encode()


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), LIMIT + 1, {1: 2}, {"é": 1}, b"x", {"a": {1, 2}}, ["\ud800"], object()]
)
def test_values_without_a_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a":1,"a":1}', "key `a` is given twice"),
        ('{"x":{"a":1,"b":2,"a":3}}', "key `a` is given twice"),
        ('{"a":1,"\\u0061":2}', "key `a` is given twice"),
        ("1.0", "1.0 is not an integer"),
        ("1e3", "1e3 is not an integer"),
        ("-0.0", "is not an integer"),
        ("NaN", "is not an integer"),
        ("-Infinity", "is not an integer"),
        (str(LIMIT + 1), "out of range"),
        (str(-LIMIT - 1), "out of range"),
        ("9" * 5000, "out of range"),
        ("", "line 1 column 1"),
        ("{} {}", "Extra data"),
        ("{'a':1}", "line 1 column 2"),
        ('{"a":1,}', "line 1 column"),
        ('"\n"', "line 1 column"),
        ("\ufeff{}", "BOM"),
        ('"\\ud800"', "lone surrogate"),
        ('{"\\udfff":1}', "lone surrogate"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_ambiguous_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        loads(text.encode(), what="the thing")
    assert caught.value.message.startswith("the thing: ")
    assert words in caught.value.message
    assert len(caught.value.message) < 200


def test_surrogate_pairs_are_one_character() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_depth_is_limited() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    assert json.dumps(loads(nested(MAX_DEPTH - 1))) == nested(MAX_DEPTH - 1).decode()
    with pytest.raises(EvidenceError, match=f"deeper than {MAX_DEPTH}"):
        loads(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"'])
def test_only_utf_8(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="not UTF-8 at byte 1"):
        loads(data)


def test_size_is_limited() -> None:
    with pytest.raises(EvidenceError, match="11 bytes, expected at most 10"):
        loads(b" " * 11, limit=10)


def test_base64_is_bounded_to_the_byte() -> None:
    assert unb64(b64(bytes(65536)), limit=65536) == bytes(65536)
    with pytest.raises(EvidenceError, match="65537 bytes, expected at most 65536"):
        unb64(b64(bytes(65537)), limit=65536)


@given(st.binary(max_size=40))
def test_base64_and_hex_round_trip(data: bytes) -> None:
    assert unb64(b64(data)) == data
    assert unhex(data.hex(), len(data)) == data


@pytest.mark.parametrize("text", ["YQ", "YR==", "YQ==\n", "Y Q==", "-_8=", "YQ==YQ==", "é", "=", None, 1, b"YQ=="])
def test_only_canonical_base64_is_accepted(text: object) -> None:
    with pytest.raises(EvidenceError):
        unb64(text)


@pytest.mark.parametrize("text", ["A0", "0", "0x00", "00\n", " 00", "zz", "٠٠", None, 0, b"00"])
def test_only_lower_case_hex_is_accepted(text: object) -> None:
    with pytest.raises(EvidenceError):
        unhex(text)
    with pytest.raises(EvidenceError, match="1 bytes, expected 2"):
        unhex("00", 2)


def test_fields_name_their_place() -> None:
    top = Fields({"a": {"n": True, "s": "long", "l": [1, 2], "b": 1}, "z": 0, "y": 0}, "doc")
    inner = top.fields("a")
    with pytest.raises(EvidenceError, match=r"^doc\.a\.missing: missing$"):
        inner.text("missing")
    with pytest.raises(EvidenceError, match=r"^doc\.a\.n: a boolean, expected an integer$"):
        inner.integer("n")
    with pytest.raises(EvidenceError, match=r"^doc\.a\.s: 4 characters, expected at most 3$"):
        inner.text("s", limit=3)
    with pytest.raises(EvidenceError, match=r"^doc\.a\.l: 2 items, expected at most 1$"):
        inner.array("l", limit=1)
    with pytest.raises(EvidenceError, match=r"^doc\.a\.b: an integer, expected true or false$"):
        inner.boolean("b")
    inner.end()
    with pytest.raises(EvidenceError, match=r"^doc\.y: unknown field$"):
        top.end()
    with pytest.raises(EvidenceError, match=r"^x: null, expected an object$"):
        Fields(None, "x")
