"""What the QVL says becomes facts; what it cannot say becomes a reason."""

from __future__ import annotations

import hashlib

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.base.strictjson import loads
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import signature
from privml.evidence.tdx.claims import QuoteFacts, TcbLevel
from privml.sim import quote as sim
from privml.verify.tdx import INTEL_ROOT_SHA256

QUOTE = (samples.VECTORS / "tdx_quote.bin").read_bytes()
COLLATERAL = collaterals.decode(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes()))
JUNE_2025 = 1_750_420_000


def test_a_genuine_quote() -> None:
    found = signature.check(QUOTE, COLLATERAL, now=JUNE_2025)
    assert isinstance(found, QuoteFacts)
    assert found.root_sha256 == INTEL_ROOT_SHA256 == hashlib.sha256(signature.INTEL_ROOT_DER).hexdigest()
    assert (found.tcb_status, found.advisory_ids, found.tcb_evaluation_number) == ("UpToDate", (), 17)
    assert found.fmspc.hex() == "b0c06f000000"
    assert len(found.ppid) == 16
    assert found.collateral_issued <= JUNE_2025 < found.collateral_expires
    up_to_date = TcbLevel("UpToDate", "2024-03-13")
    assert (found.platform, found.module, found.qe) == (up_to_date, up_to_date, up_to_date)
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (True, True, True)
    assert {part.name: (part.expires - part.issued) // 86400 for part in found.validity} == {
        "tcb_info": 30, "qe_identity": 30, "pck_crl": 30, "root_ca_crl": 379,
    }  # fmt: skip
    assert not found.claims_simulated
    assert found.evidence_sha256 == hashlib.sha256(QUOTE[:4936]).hexdigest()


def test_allowing_a_simulation_does_not_turn_intel_off() -> None:
    found = signature.check(QUOTE, COLLATERAL, now=JUNE_2025, simulated_root=samples.ROOT)
    assert isinstance(found, QuoteFacts)
    assert found.root_sha256 == INTEL_ROOT_SHA256


@pytest.mark.parametrize("now", [JUNE_2025 - 90 * 86400, JUNE_2025 + 90 * 86400, 0])
def test_collateral_out_of_its_time_fails(now: int) -> None:
    assert isinstance(signature.check(QUOTE, COLLATERAL, now=now), SignatureFailure)


# One byte in each signed part: header, TD report, signature, key, QE report, its signature, authentication data.
@pytest.mark.parametrize("at", [28, 60, 200, 600, 640, 702, 770, 1000, 1180, 1222])
def test_one_flipped_bit_fails(at: int) -> None:
    data = bytearray(QUOTE)
    data[at] ^= 1
    assert isinstance(signature.check(bytes(data), COLLATERAL, now=JUNE_2025), SignatureFailure)


@pytest.mark.parametrize("name", collaterals.FIELDS)
def test_every_part_of_the_collateral_counts(name: str) -> None:
    text = COLLATERAL[name]
    at = len(text) // 4  # in a chain of two, inside the first certificate: the last one is the caller's own root
    bent = text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]
    found = signature.check(QUOTE, {**COLLATERAL, name: bent}, now=JUNE_2025)
    assert isinstance(found, SignatureFailure), name


def test_the_reason_is_that_of_the_root_the_chain_names() -> None:
    """Not "unknown root" from the other one that was tried too."""
    later = JUNE_2025 + 90 * 86400
    genuine = signature.check(QUOTE, COLLATERAL, now=later, simulated_root=samples.ROOT)
    assert isinstance(genuine, SignatureFailure)
    assert (genuine.code, genuine.reason) == ("collateral-expired", "tcb_info valid to 2025-07-19T10:16:03Z")
    made = samples.document()
    simulated = signature.check(made.evidence, sim.collateral(), now=2**32, simulated_root=samples.ROOT)
    assert isinstance(simulated, SignatureFailure)
    assert (simulated.code, simulated.reason) == ("collateral-expired", "tcb_info valid to 2049-12-31T23:59:59Z")


def test_no_collateral_is_a_failure_of_its_own() -> None:
    found = signature.check(QUOTE, None, now=JUNE_2025)
    assert isinstance(found, SignatureFailure)
    assert found.code == "collateral-missing"


def test_trailing_bytes_that_the_library_ignores_are_malformed() -> None:
    with pytest.raises(EvidenceError):
        signature.check(QUOTE + b"x", COLLATERAL, now=JUNE_2025)


def test_a_simulated_quote_needs_its_root() -> None:
    made = samples.document()
    found = samples.signature_of(made)
    assert found.root_sha256 == hashlib.sha256(samples.ROOT).hexdigest()
    assert (found.tcb_status, found.claims_simulated) == ("UpToDate", True)
    without = signature.check(made.evidence, sim.collateral(), now=samples.NOW)
    assert isinstance(without, SignatureFailure)
    assert without.claims_simulated


def test_a_root_may_be_pem_or_der() -> None:
    assert signature.root_der(samples.ROOT) == samples.ROOT
    with pytest.raises(EvidenceError):
        signature.root_der(b"nonsense")
