"""Whatever a collateral service sends is read or refused by name, and signed text is cut out unchanged."""

from __future__ import annotations

import contextlib
import json
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import EvidenceError
from privml.client import pcs

ROOT = b"a root certificate"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
    ),
    max_leaves=12,
)
SPACE = st.text(" \t\r\n", max_size=3)


@given(
    value=st.dictionaries(st.text(st.characters(codec="utf-8")), VALUES, max_size=4),
    before=SPACE,
    after=SPACE,
    first=st.booleans(),
)
def test_a_member_is_cut_out_of_any_spelling(
    value: dict[str, object], before: str, after: str, *, first: bool
) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1 if len(before) > 1 else None)
    members = [f'"tcbInfo"{before}:{after}{text}{before}', f'{after}"signature":{before}"AB"']
    body = f"{before}{{{','.join(members if first else members[::-1])}}}{after}"
    assert pcs.signed_member(body.encode(), "tcbInfo") == (text, "ab")


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps({"tcbInfo": value, "signature": "00"}).encode()))
def test_any_other_body_is_refused_by_name(body: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        text, signature = pcs.signed_member(body, "tcbInfo")
        assert isinstance(json.loads(text), dict)
        assert bytes.fromhex(signature).hex() == signature
    with contextlib.suppress(EvidenceError):
        assert bytes.fromhex(pcs.revocation_list(body, "pck_crl"))


PEM = st.lists(
    st.sampled_from(["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "QUJD", "\n", "%", "=", "x"])
)


@given(PEM.map("".join) | st.text())
def test_any_chain_is_canonical_or_refused_by_name(text: str) -> None:
    for header in (text, quote(text)):
        with contextlib.suppress(EvidenceError):
            chain = pcs.issuer_chain(header, ROOT)
            assert pcs.issuer_chain(quote(chain), ROOT) == chain
