"""Bundle v1: what `--save` writes is what another person judges, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import attestation_samples as samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import EvidenceError
from privml.base.strictjson import MAX_BYTES, canonical, pretty
from privml.evidence import bundle
from privml.evidence.bundle import Bundle

MADE = Bundle(samples.document().encode(), samples.NONCE, samples.SPKI, samples.NOW)
WITH_COLLATERAL = Bundle(b"x", samples.NONCE, samples.SPKI, 0, {"tdx": samples.sim.collateral()})


@pytest.mark.parametrize("made", [MADE, WITH_COLLATERAL])
def test_a_bundle_is_read_as_it_was_written(made: Bundle) -> None:
    assert bundle.decode(made.encode()) == made
    assert bundle.decode(pretty(json.loads(made.encode()))) == made
    assert bundle.is_bundle(made.encode())


def test_a_document_is_no_bundle() -> None:
    assert not bundle.is_bundle(MADE.document)
    with pytest.raises(EvidenceError, match=r"bundle\.format: got `privml-attestation/v2`"):
        bundle.decode(MADE.document)


@given(
    st.binary(max_size=50),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 253_402_300_799),
)
def test_any_content_comes_back(document: bytes, nonce: bytes, key: bytes, time: int) -> None:
    made = Bundle(document, nonce, key, time)
    assert bundle.decode(made.encode()) == made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "privml-bundle/v2"}, "bundle.format"),
        ({"anchor": {}}, "bundle.anchor: expected null"),
        ({"anchor": "out/demo-cpu"}, "bundle.anchor: expected null"),
        ({"nonce": "00"}, "bundle.nonce: 1 bytes, expected 32"),
        ({"nonce": None}, "bundle.nonce"),
        ({"tls_spki_sha256": "A" * 64}, "bundle.tls_spki_sha256"),
        ({"judged_at": -1}, "bundle.judged_at: got -1"),
        ({"judged_at": 1 << 40}, "bundle.judged_at: got"),
        ({"judged_at": True}, "bundle.judged_at: a boolean"),
        ({"judged_at": "now"}, "bundle.judged_at: a string"),
        ({"document": {}}, "bundle.document: dict"),
        ({"document": "YQ"}, "bundle.document: not base64"),
        ({"collateral": {}}, "bundle.collateral: empty"),
        ({"collateral": {"tdx": {}}}, "bundle.collateral.tdx"),
        ({"collateral": {"other": {}}}, "bundle.collateral.other: unknown field"),
        ({"more": 1}, "bundle.more: unknown field"),
    ],
)
def test_everything_else_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        bundle.decode(canonical({**json.loads(MADE.encode()), **changes}))
    assert words in caught.value.message


@pytest.mark.parametrize(
    "name", ["format", "document", "nonce", "tls_spki_sha256", "judged_at", "anchor", "collateral"]
)
def test_no_field_may_be_missing(name: str) -> None:
    value = json.loads(MADE.encode())
    del value[name]
    with pytest.raises(EvidenceError, match=f"bundle.{name}: missing"):
        bundle.decode(canonical(value))


def test_sizes_are_bounded() -> None:
    assert len(bundle.decode(Bundle(bytes(MAX_BYTES), bytes(32), bytes(32), 0).encode()).document) == MAX_BYTES
    with pytest.raises(EvidenceError, match=f"expected at most {MAX_BYTES} bytes|expected at most {MAX_BYTES}"):
        bundle.decode(Bundle(bytes(MAX_BYTES + 1), bytes(32), bytes(32), 0).encode())
    with pytest.raises(EvidenceError, match=f"expected at most {bundle.MAX_BUNDLE}"):
        bundle.decode(b" " * (bundle.MAX_BUNDLE + 1))


@given(st.integers(0, len(WITH_COLLATERAL.encode()) - 1), st.integers(0, 255), st.booleans())
def test_an_altered_bundle_is_refused_or_reads_as_altered(at: int, byte: int, cut: bool) -> None:
    """Whatever is still read has exactly one spelling in canonical JSON."""
    data = bytearray(WITH_COLLATERAL.encode())
    if cut:
        del data[at:]
    else:
        data[at] = byte
    try:
        found = bundle.decode(bytes(data))
    except EvidenceError:
        return
    assert (found == WITH_COLLATERAL) == (found.encode() == WITH_COLLATERAL.encode())
