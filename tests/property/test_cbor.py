"""Whatever is read as CBOR has one encoding, and all other bytes are refused by one kind of error."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.published import read

from privml.base.errors import EvidenceError
from privml.base.strictcbor import Tag, decode, encode
from privml.evidence.cca import signature, token

FAST = settings(max_examples=150, deadline=None)
VECTOR = read("attestation/veraison_ccatoken/cca_token.cbor")
KEY = signature.read_key(read("attestation/veraison_ccatoken/cca_platform.pub"))
KEYS = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=30) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(Tag, st.integers(0, 2**64 - 1), inner)
    ),
    max_leaves=8,
)


@FAST
@given(VALUES)
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    assert decode(encode(value)) == value


@FAST
@given(st.binary(max_size=60))
def test_any_bytes_have_one_encoding_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        assert encode(decode(data)) == data
    with contextlib.suppress(EvidenceError):
        token.parse(data)


@FAST
@given(st.data())
def test_a_token_with_changed_bytes_is_refused_or_does_not_verify(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(VECTOR) - 1))
    bent = VECTOR[:at] + data.draw(st.binary(max_size=3)) + VECTOR[at + data.draw(st.integers(0, 3)) :]
    if bent == VECTOR:
        return
    with contextlib.suppress(EvidenceError):
        found = signature.check(token.parse(bent), KEY)
        assert not (found.realm and found.bound and found.platform)
