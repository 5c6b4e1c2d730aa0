"""Quotes of real machines parse whole; a quote of another length, TEE or version does not."""

from __future__ import annotations

import dataclasses
import struct

import dcap_qvl
import pytest
from attestation_samples import VECTORS
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.tdx import quote

V4 = (VECTORS / "tdx_quote.bin").read_bytes()
V5 = (VECTORS / "tdx_quote_v5.bin").read_bytes()
SIGNED = 4936
CHAIN = 636 + 128 + 6 + 384 + 64 + 2 + 32 + 2  # where the length of the certificate chain stands


def test_a_real_v4_quote_has_every_field() -> None:
    parsed = quote.parse(V4)
    assert (parsed.header.version, parsed.header.tee_type) == (4, 0x81)
    assert parsed.header.qe_vendor == quote.INTEL_QE_VENDOR
    assert parsed.body.td_attributes.hex() == "0000001000000000"
    assert parsed.body.xfam.hex() == "e702060000000000"
    assert parsed.body.mr_td == V4[48 + 136 : 48 + 184]
    assert parsed.body.rtmrs == tuple(V4[48 + 328 + 48 * i : 48 + 376 + 48 * i] for i in range(4))
    assert parsed.body.report_data == V4[48 + 520 : 48 + 584]
    assert parsed.body.mr_service_td is None
    assert parsed.signature.qe_report.isv_prod_id == 2
    assert parsed.signature.qe_report.mr_signer.hex().startswith("dc9e2a7c")
    assert parsed.signature.certificates.startswith(b"-----BEGIN CERTIFICATE-----")
    assert (parsed.signed_length, parsed.padding) == (SIGNED, len(V4) - SIGNED)


def test_a_real_v5_quote_has_the_td15_fields() -> None:
    parsed = quote.parse(V5)
    assert (parsed.header.version, parsed.body_type) == (5, quote.BODY_TD15)
    assert parsed.body.mr_td == V5[54 + 136 : 54 + 184]
    assert parsed.body.tee_tcb_svn2 == V5[54 + 584 : 54 + 600]
    assert parsed.body.mr_service_td == V5[54 + 600 : 54 + 648]


@pytest.mark.parametrize("data", [V4, V5])
def test_the_qvl_reads_the_same_fields(data: bytes) -> None:
    """A second reader, written by others, agrees on every field that both know."""
    parsed, theirs = quote.parse(data), dcap_qvl.parse_quote(data)
    for field in dataclasses.fields(parsed.body):
        ours = getattr(parsed.body, field.name)
        if field.name != "rtmrs" and ours is not None:
            assert ours == bytes(getattr(theirs.report, field.name)), field.name
    assert parsed.body.rtmrs == tuple(bytes(getattr(theirs.report, f"rt_mr{index}")) for index in range(4))
    assert parsed.header.user_data == bytes(theirs.header.user_data)
    assert parsed.signature.certificates.rstrip(b"\0") == bytes(theirs.cert_chain_pem_bytes())


@pytest.mark.parametrize("data", [V4[:SIGNED], V4, V4 + bytes(3000)], ids=["none", "theirs", "more"])
def test_zero_padding_is_accepted_and_reported(data: bytes) -> None:
    assert quote.parse(data).padding == len(data) - SIGNED


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (V4[: SIGNED - 1], "needs"),
        (V4[:632], "needs"),
        (V4[:47], "header needs 48"),
        (b"", "header needs 48"),
        (V4 + b"\1", "other than zero padding"),
        (V4[:SIGNED] + b"junk", "other than zero padding"),
        (struct.pack("<H", 3) + V4[2:], "version 3"),
        (V4[:2] + struct.pack("<H", 3) + V4[4:], "key type 3"),
        (V4[:4] + bytes(4) + V4[8:], "TEE type 0x0"),
        (V4[:632] + struct.pack("<I", 2**32 - 1) + V4[636:], "signature data needs"),
        (V4[:632] + struct.pack("<I", 4301) + V4[636:SIGNED] + b"\0", "unexplained"),
        (V4[:764] + struct.pack("<H", 5) + V4[766:], "certification data type 5"),
        (V4[:CHAIN] + struct.pack("<I", 3677) + V4[CHAIN + 4 :], "1 unexplained bytes"),
        (V4[:CHAIN] + struct.pack("<I", 3679) + V4[CHAIN + 4 :], "certificates needs 3679"),
        (V5[:48] + struct.pack("<HI", 1, 384) + V5[54:], "body type 1"),
        (V5[:48] + struct.pack("<HI", 3, 584) + V5[54:], "584 bytes, expected 648"),
        (bytes(70_000), "at most 65536"),
    ],
)
def test_malformed_quotes_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        quote.parse(data)


REAL = {
    "measurement/gcp-cos113/cos-113-tdx-quote.dat": (4, 4935),
    "attestation/confidential-containers_trustee/tdx_quote_6.dat": (4, 4936),
}


@pytest.mark.parametrize("path", REAL)
def test_more_real_quotes(path: str) -> None:
    parsed = quote.parse(read(path))
    assert (parsed.header.version, parsed.signed_length) == REAL[path]


def test_real_files_that_are_not_quotes_are_refused() -> None:
    extra = read("attestation/google_go-tdx-guest/tdx_prod_quote_SPR_E4.dat")
    with pytest.raises(EvidenceError, match="other than zero padding"):
        quote.parse(extra)
    # Its makers wrote a line of text behind the quote (ADR 0036).
    assert extra[quote.read(extra).signed_length :] == b"\nextra bytes(only for testing purpose)\n"
    with pytest.raises(EvidenceError, match="version 3"):
        quote.parse(read("attestation/Phala-Network_dcap-qvl/sgx_quote.bin"))
    with pytest.raises(EvidenceError):
        quote.parse(read("attestation/google_go-tdx-guest/report.dat"))
