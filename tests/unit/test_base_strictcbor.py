"""CBOR is read in one way: each refusal, and values that RFC 8949 shows."""

from __future__ import annotations

from typing import Any

import pytest

from privml.base import strictcbor
from privml.base.errors import EvidenceError
from privml.base.strictcbor import Tag, decode, encode

# RFC 8949, appendix A: those that have a shortest form of definite length.
EXAMPLES: list[tuple[str, Any]] = [
    ("00", 0), ("17", 23), ("1818", 24), ("1864", 100), ("1903e8", 1000), ("1a000f4240", 1_000_000),
    ("1b000000e8d4a51000", 10**12), ("1bffffffffffffffff", 2**64 - 1), ("3bffffffffffffffff", -(2**64)), ("20", -1),
    ("3903e7", -1000), ("f4", False), ("f5", True), ("f6", None), ("40", b""), ("4401020304", b"\1\2\3\4"),
    ("60", ""), ("62c3bc", "ü"), ("80", ()), ("83010203", (1, 2, 3)), ("8301820203820405", (1, (2, 3), (4, 5))),
    ("a0", {}), ("a201020304", {1: 2, 3: 4}), ("826161a161626163", ("a", {"b": "c"})),
    ("c11a514b67b0", Tag(1, 1363896240)), ("d818456449455446", Tag(24, b"dIETF")),
]  # fmt: skip


@pytest.mark.parametrize(("digits", "value"), EXAMPLES)
def test_the_examples_of_the_specification(digits: str, value: Any) -> None:
    data = bytes.fromhex(digits)
    assert decode(data) == value
    assert type(decode(data)) is type(value)
    assert encode(value) == data


@pytest.mark.parametrize(
    ("digits", "why"),
    [
        ("", "expected 1 more bytes"),
        ("0000", "1 bytes after its end"),
        ("1817", "longer than it must be"),
        ("190017", "longer than it must be"),
        ("1a00000017", "longer than it must be"),
        ("1b0000000000000017", "longer than it must be"),
        ("1900ff", "longer than it must be"),
        ("1a00000100", "longer than it must be"),
        ("1a0000ffff", "longer than it must be"),
        ("1b0000000000000100", "longer than it must be"),
        ("1b000000000000ffff", "longer than it must be"),
        ("1b00000000ffffffff", "longer than it must be"),
        ("5817" + "00" * 23, "longer than it must be"),
        ("1c", "another head"),
        ("5f42010243030405ff", "indefinite"),
        ("9fff", "indefinite"),
        ("bfff", "indefinite"),
        ("f93c00", "a float"),
        ("fb3ff199999999999a", "a float"),
        ("f7", "simple value 23"),
        ("f0", "simple value 16"),
        ("f818", "another head"),
        ("61ff", "not UTF-8"),
        ("a2010201ff", "key `1` twice"),
        ("a2010201", "key `1` twice"),
        ("a1f501", "a key that is no number"),
        ("a1400 1".replace(" ", ""), "a key that is no number"),
        ("4401", "expected 4 more bytes"),
        ("9bffffffffffffffff", "expected 1 more bytes"),
        ("5bffffffffffffffff", "more bytes"),
        ("81" * 13 + "00", "levels"),
    ],
)
def test_any_other_encoding_is_refused(digits: str, why: str) -> None:
    with pytest.raises(EvidenceError, match=why):
        decode(bytes.fromhex(digits))


def test_sizes_are_bounded() -> None:
    with pytest.raises(EvidenceError, match="expected at most 3"):
        decode(b"\x43abc", limit=3)
    many = encode((0,) * strictcbor.MAX_VALUES)
    with pytest.raises(EvidenceError, match="10000 values"):
        decode(many)


@pytest.mark.parametrize("value", [1.5, object(), 2**64, -(2**64) - 1])
def test_what_has_no_encoding_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)
