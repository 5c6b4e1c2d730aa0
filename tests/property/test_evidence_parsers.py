"""Parsers of untrusted bytes return a value or raise ``EvidenceError`` for any bytes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.published import read as published

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads
from privml.events.registers import RTMRS, ZERO
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.wording import describe
from privml.evidence import document, facts, merkle, report_data
from privml.evidence.certificates import UnfitError, decode_pem
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import Document
from privml.evidence.nvidia import collateral as nvidia_collateral
from privml.evidence.nvidia import ocsp, opaque, report, spdm, xml
from privml.evidence.sections import Devices, Header, Keys
from privml.evidence.snp import leaf as snp_leaf
from privml.evidence.snp import report as snp_report
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote, signature
from privml.statement import intoto, predicate

VECTORS = Path(__file__).parents[1] / "vectors" / "attestation"
REAL = [(VECTORS / name).read_bytes() for name in ("tdx_quote.bin", "tdx_quote_v5.bin")]
COLLATERAL = collaterals.decode(loads((VECTORS / "tdx_quote_collateral.json").read_bytes()))
JUNE_2025 = 1_750_420_000
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARSERS: list[Callable[[bytes], Any]] = [
    quote.parse,
    quote.read,
    document.parse,
    Header.decode,
    Keys.decode,
    Devices.decode,
    predicate.decode,
    intoto.decode,
    spdm.parse,
    lambda data: report.read("gpu", data),
    lambda data: opaque.parse("gpu", data),
    lambda data: opaque.parse("switch", data),
    xml.parse,
    snp_report.parse,
    snp_leaf.parse,
    lambda data: nvidia_collateral.decode(loads(data)),
]


def survives(parse: Callable[[bytes], Any], data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        parse(data)


@pytest.mark.parametrize("parse", PARSERS)
@FAST
@given(data=st.binary(max_size=2000))
def test_parsers_accept_or_refuse_any_bytes(parse: Callable[[bytes], Any], data: bytes) -> None:
    survives(parse, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abv"), inner, max_size=3),
    max_leaves=8,
)


@FAST
@given(data=st.data())
def test_a_document_with_any_value_in_any_field(data: st.DataObject) -> None:
    honest = Document(
        b"{}", bytes(32), (), b"{}", b"{}", b"", b"", b"", (), {"tdx": dict.fromkeys(collaterals.FIELDS, "x")}
    )
    value = loads(honest.encode())
    value[data.draw(st.sampled_from(sorted(value)))] = data.draw(JSON)
    survives(document.parse, canonical(value))


@FAST
@given(base=st.sampled_from(REAL), data=st.data())
def test_a_real_quote_with_random_changes_is_parsed_or_refused(base: bytes, data: st.DataObject) -> None:
    changed = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, 60) | st.integers(630, 780))
        changed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    survives(quote.parse, bytes(changed))
    survives(quote.parse, bytes(changed[:cut]))


@FAST
@given(at=st.integers(0, 4935), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_genuine_quote_verifies(at: int, bit: int) -> None:
    """Not even in the line ends of its PEM chain, which the library skips."""
    changed = bytearray(REAL[0])
    changed[at] ^= 1 << bit
    try:
        found = signature.check(bytes(changed), COLLATERAL, now=JUNE_2025)
    except EvidenceError:
        return
    assert isinstance(found, SignatureFailure)


@FAST
@given(name=st.sampled_from(collaterals.FIELDS), text=st.text(max_size=200))
def test_any_text_as_collateral_is_a_failure(name: str, text: str) -> None:
    found = signature.check(REAL[0], {**COLLATERAL, name: text}, now=JUNE_2025)
    assert isinstance(found, SignatureFailure)


@FAST
@given(nonces=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), other=st.binary(min_size=32))
def test_a_tree_proves_its_nonces_and_no_other(nonces: list[bytes], other: bytes) -> None:
    tree = merkle.build(nonces)
    for nonce, path in zip(nonces, tree.paths, strict=True):
        assert merkle.root(nonce, path) == tree.root
        assert len(path) <= 6
    stranger = hashlib.sha256(other).digest()
    if stranger not in nonces:
        assert all(merkle.root(stranger, path) != tree.root for path in tree.paths)


@FAST
@given(parts=st.lists(st.binary(max_size=8), min_size=8, max_size=8))
def test_report_data_is_injective_over_its_parts(parts: list[bytes]) -> None:
    """No bytes can move from one section into the next without moving the report data."""
    first, second = parts[:4], parts[4:]
    names = ("header", "keys", "devices", "eventlog")
    one, two = (
        report_data.compute(root=bytes(32), **dict(zip(names, four, strict=True))) for four in (first, second)
    )
    assert (one == two) == (first == second)


@FAST
@given(data=st.binary(max_size=400))
def test_any_boot_log_gets_a_kind(data: bytes) -> None:
    log = facts.read_boot_log(data, dict.fromkeys(RTMRS, ZERO))
    assert log.kind in ("absent", "malformed", "ccel", "tpm")


@FAST
@given(kind=st.sampled_from([3, 6, 13, 0x80000001, 0x800000E0]) | st.integers(0, 2**32 - 1), data=st.binary())
def test_any_logged_event_is_described_in_printable_text(kind: int, data: bytes) -> None:
    assert describe(LogEntry(3, kind, {ALG_SHA384: bytes(48)}, data)).isprintable()


@FAST
@given(data=st.binary(max_size=2000))
def test_any_bytes_as_certificates_or_answers(data: bytes) -> None:
    for read in (ocsp.load, lambda given: decode_pem(given, limit=4096)):
        with contextlib.suppress(UnfitError):
            read(data)


GPU_REPORT = bytes.fromhex(published("attestation/NVIDIA_attestation-sdk/unit/hopperAttestationReport.txt").decode())
RIM = published("attestation/NVIDIA_attestation-sdk/unit/NV_GPU_DRIVER_GH100_550.144.03.xml")


@FAST
@given(data=st.data())
def test_a_real_gpu_report_with_changes(data: st.DataObject) -> None:
    changed = bytearray(GPU_REPORT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, 60) | st.integers(3564, 4034))
        changed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    for kind in ("gpu", "switch"):
        survives(lambda given, kind=kind: report.read(kind, given), bytes(changed))
    survives(spdm.parse, bytes(changed[:cut]))


@FAST
@given(fields=st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=200)), max_size=20))
def test_opaque_fields_come_back_as_they_went(fields: list[tuple[int, bytes]]) -> None:
    assert opaque.fields(opaque.encode(tuple(fields))) == tuple(fields)


@FAST
@given(text=st.text(alphabet="<>/ab=\"' &;:x\n", max_size=60))
def test_canonical_xml_is_its_own_canonical_form(text: str) -> None:
    try:
        canonical_form = xml.canonical(xml.parse(f"<a>{text}</a>".encode()))
    except EvidenceError:
        return
    assert xml.canonical(xml.parse(canonical_form)) == canonical_form


@FAST
@given(at=st.integers(0, len(RIM) - 1), value=st.integers(0, 255))
def test_real_reference_values_with_a_changed_byte_are_xml_or_refused(at: int, value: int) -> None:
    survives(xml.parse, RIM[:at] + bytes([value]) + RIM[at + 1 :])
