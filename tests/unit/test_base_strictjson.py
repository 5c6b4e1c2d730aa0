"""Strict JSON: unambiguous when read, canonical when written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import EvidenceError
from privml.base.strictjson import (
    MAX_DEPTH,
    MAX_VALUES,
    Fields,
    b64,
    canonical,
    check_structure,
    first_repeated,
    loads,
    pretty,
    unb64,
    unhex,
)

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
        ("[" * 50_000, "nested deeper than 32 levels"),
        ("[" * 100_000, "about 100001 values, expected at most 100000"),
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

    assert json.dumps(loads(nested(MAX_DEPTH))) == nested(MAX_DEPTH).decode()
    with pytest.raises(EvidenceError, match=f"deeper than {MAX_DEPTH}"):
        loads(nested(MAX_DEPTH + 1))


def depth_of(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def count_of(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_of, children))


def exceeds(text: str, **bounds: int) -> bool:
    try:
        check_structure(text, what="JSON", **bounds)
    except EvidenceError:
        return True
    return False


TRICKY = st.recursive(
    st.text(alphabet='"\\[]{},:\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\[]{},', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES | TRICKY, st.sampled_from([None, 1]), st.booleans())
def test_structure_is_known_before_parsing(value: object, indent: int | None, ascii_only: bool) -> None:
    """Brackets, commas and quotes inside strings count for nothing, escaped or not."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    depth, count = depth_of(value), count_of(value)
    assert not exceeds(text, depth=depth)
    assert exceeds(text, depth=depth - 1) == (depth > 0)
    assert exceeds(text, values=count - 1)
    assert not exceeds(text, values=2 * count)


@given(st.text(alphabet='"\\\\[]{},:1a\n', max_size=40))
def test_no_text_nests_deeper_than_its_structure(text: str) -> None:
    """Also malformed text: as far as a parser comes, the structure was read in the same way."""
    deepest = next(depth for depth in range(len(text) + 1) if not exceeds(text, depth=depth))
    for end in range(len(text) + 1):
        try:
            value = json.loads(text[:end])
        except ValueError:
            continue
        assert depth_of(value) <= deepest


@given(st.binary(max_size=60) | st.text(alphabet='"\\\\[]{},:1a\n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = loads(data, values=20)
    except EvidenceError:
        return
    assert count_of(value) <= 20
    assert depth_of(value) <= MAX_DEPTH
    assert loads(json.dumps(value).encode()) == value


class Counted:
    """A name that counts how often it is compared with another."""

    compared = 0

    def __init__(self, text: str) -> None:
        self.text = text

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return isinstance(other, Counted) and self.text == other.text


def test_a_repeated_name_is_found_with_one_comparison_a_name() -> None:
    names = [Counted(f"k{number}") for number in range(20_000)]
    Counted.compared = 0
    assert first_repeated(names) is None
    assert first_repeated([*names, Counted("k7"), Counted("k3")]) == Counted("k7")
    assert Counted.compared < 2 * len(names)


@given(st.lists(st.integers(0, 30)))
def test_the_first_repeated_name(names: list[int]) -> None:
    repeated = [name for at, name in enumerate(names) if name in names[:at]]
    assert first_repeated(names) == (repeated[0] if repeated else None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"{" + b",".join(b'"k%d":0' % number for number in [*range(36_000), 8, 9]) + b"}",
            "key `k8` is given twice",
        ),
        (b"{" + b'"k":0,' * 66_000 + b'"k":0}', "key `k` is given twice"),
        (b"[" * 400_000, "values, expected at most"),
        (b"[" * 40_000 + b"0," * 180_000, "values, expected at most"),
        (b"[" + b"0," * 199_999 + b"0]", "about 200001 values"),
        (b"[" + b"{}," * 133_000 + b"{}]", "values, expected at most"),
        (b'["' + b'\\"' * 200_000, "Unterminated string"),
        (b'"' * 400_000, "Extra data"),
        (b'{"k":' * 60_000, "nested deeper than 32 levels"),
    ],
)
def test_400_kb_of_each_kind_end(data: bytes, words: str) -> None:
    """One with work for each pair of its parts would take minutes: the suite's time shows it."""
    with pytest.raises(EvidenceError, match=words):
        loads(data)


def test_values_have_a_limit_that_a_reader_may_raise() -> None:
    data = b"[" + b"0," * MAX_VALUES + b"0]"
    with pytest.raises(EvidenceError, match=f"about {MAX_VALUES + 2} values, expected at most {MAX_VALUES}"):
        loads(data)
    assert len(loads(data, values=2 * MAX_VALUES)) == MAX_VALUES + 1


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
