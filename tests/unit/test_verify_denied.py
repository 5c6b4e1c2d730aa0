"""The list of published evidence: every public quote among the vectors is on it."""

from __future__ import annotations

import hashlib
import json
import lzma

import attestation_samples as samples
import pytest

from privml.evidence.snp import claims as reports
from privml.evidence.tdx import claims, quote
from privml.verify import denied

VECTORS = samples.VECTORS
HEX = lzma.decompress((VECTORS / "Phala-Network_dcap-qvl/dstack_tdx_quote.hex.xz").read_bytes())
REPORT = lzma.decompress((VECTORS.parent / "measurement/dstack-gpu-64g/quote-report.json.xz").read_bytes())
PUBLISHED = {
    "Phala-Network/dcap-qvl sample/tdx_quote": (VECTORS / "tdx_quote.bin").read_bytes(),
    "Phala-Network/dcap-qvl sample/tdx-quote.hex": bytes.fromhex(HEX.decode().strip().removeprefix("0x")),
    "Dstack-TEE/dstack dstack/verifier/fixtures/quote-report.json": bytes.fromhex(json.loads(REPORT)["quote"]),
    "confidential-containers/trustee deps/verifier/test_data/tdx_quote_5.dat": (
        VECTORS / "tdx_quote_v5.bin"
    ).read_bytes(),
    "confidential-containers/trustee deps/verifier/test_data/tdx_quote_6.dat": (
        VECTORS / "confidential-containers_trustee/tdx_quote_6.dat"
    ).read_bytes(),
    "google/go-tdx-guest testing/testdata/ccel/cos-113-tdx-quote.dat": lzma.decompress(
        next(VECTORS.parent.rglob("cos-113-tdx-quote.dat.xz")).read_bytes()
    ),
    "google/go-tdx-guest testing/testdata/tdx_prod_quote_SPR_E4.dat": (
        VECTORS / "google_go-tdx-guest/tdx_prod_quote_SPR_E4.dat"
    ).read_bytes(),
}


TRUSTEE = VECTORS / "confidential-containers_trustee/snp"
REPORTS = {
    "virtee/sev tests/certs_data/report_milan.hex": bytes.fromhex(
        (VECTORS / "virtee_sev/report_milan.hex").read_text()
    ),
    "confidential-containers/trustee deps/verifier/test_data/snp/test-vlek-report.bin": (
        TRUSTEE / "test-vlek-report.bin"
    ).read_bytes(),
    "confidential-containers/trustee deps/verifier/test_data/az-snp-vtpm/hcl-report.bin": (
        TRUSTEE / "hcl-report.bin"
    ).read_bytes()[0x20:0x4C0],
}


@pytest.mark.parametrize("origin", REPORTS)
def test_a_published_report_is_named_by_its_origin(origin: str) -> None:
    assert denied.EVIDENCE[denied.fingerprint(reports.read(REPORTS[origin]))] == origin


@pytest.mark.parametrize("origin", PUBLISHED)
def test_a_published_quote_is_named_by_its_origin(origin: str) -> None:
    data = PUBLISHED[origin]
    found = claims.read(data[: quote.read(data).signed_length])
    assert denied.EVIDENCE[denied.fingerprint(found)] == origin


def test_every_row_has_its_file() -> None:
    assert set(denied.EVIDENCE.values()) == {*PUBLISHED, *REPORTS}


def test_a_signature_twin_is_the_same_evidence() -> None:
    data = PUBLISHED["Phala-Network/dcap-qvl sample/tdx_quote"]
    data = data[: quote.read(data).signed_length]
    other = data[:636] + bytes(64) + data[700:]
    assert hashlib.sha256(data).digest() != hashlib.sha256(other).digest()
    assert denied.fingerprint(claims.read(data)) == denied.fingerprint(claims.read(other))


def test_the_honest_guest_is_on_no_list() -> None:
    facts = samples.facts_of(samples.document())
    assert denied.fingerprint(facts.claims) not in denied.EVIDENCE
    assert list(denied.samples(facts)) == []
