"""Claims are the same record for each TEE; the header chooses whose evidence is read."""

from __future__ import annotations

import hashlib

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.events.registers import REGISTERS
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import claims, quote
from privml.evidence.tdx.claims import QuoteFacts
from privml.evidence.tees import KINDS, check_signature, kind_of

V4 = (samples.VECTORS / "tdx_quote.bin").read_bytes()
V5 = (samples.VECTORS / "tdx_quote_v5.bin").read_bytes()


@pytest.mark.parametrize("data", [V4, V5])
def test_a_quote_claims_every_register_of_its_tee(data: bytes) -> None:
    found = claims.read(data)
    body = quote.parse(data).body
    assert found.tee == "tdx"
    assert tuple(found.registers) == REGISTERS["tdx"]
    assert list(found.registers.values()) == [body.mr_td, *body.rtmrs]
    assert (found.report_data, found.fields["xfam"]) == (body.report_data, body.xfam)


def test_fields_of_a_later_report_are_claimed_only_by_it() -> None:
    later = set(claims.read(V5).fields) - set(claims.read(V4).fields)
    assert later == {"tee-tcb-svn2", "mrservicetd"}


def test_padding_does_not_change_what_evidence_it_is() -> None:
    signed = quote.parse(V4).signed_length
    digest = hashlib.sha256(V4[:signed]).hexdigest()
    assert claims.read(V4[:signed]).evidence_sha256 == claims.read(V4[:signed] + bytes(7)).evidence_sha256 == digest


def test_every_kind_is_a_known_tee_and_another_is_named() -> None:
    assert set(KINDS) == set(REGISTERS)
    with pytest.raises(EvidenceError, match="`sgx` evidence cannot be read by this version, expected tdx, snp"):
        kind_of("sgx")


def test_the_callers_collateral_replaces_the_documents() -> None:
    made = samples.document()

    def check(collateral: dict[str, str] | None) -> object:
        return check_signature(made, "tdx", collateral=collateral, now=samples.NOW, simulated_root=samples.ROOT)

    assert isinstance(check(None), QuoteFacts)
    assert isinstance(check(dict.fromkeys((made.collateral or {})["tdx"], "x")), SignatureFailure)
