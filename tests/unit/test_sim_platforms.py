"""Platforms that Intel would not vouch for, made with the simulated PKI, end to end: none of them is accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import attestation_samples as samples
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from privml.base.strictjson import loads
from privml.evidence.document import Document
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.sim import pki, quote
from privml.verify.policy import Policy
from privml.verify.tdx import TdxPolicy
from privml.verify.verdict import Verdict

HONEST = samples.document()


def judge(made: Document, collateral: dict[str, str] | None = None, policy: Policy = samples.SIMULATED) -> Verdict:
    given = quote.collateral() if collateral is None else collateral
    checked = signature.check(made.evidence, given, now=samples.NOW, simulated_root=samples.ROOT)
    return samples.judge(made, signature=checked, policy=policy).verdict


def codes(verdict: Verdict) -> list[str]:
    return [refusal.code for refusal in verdict.refusals]


def collateral_with(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> dict[str, str]:
    value = {**getattr(pki, name)(), **changes}
    monkeypatch.setattr(pki, name, lambda: value)
    return collaterals.decode(loads(pki.generate()["collateral.json"]))


def level(**changes: Any) -> list[Any]:
    (only,) = pki.tcb_info_json()["tcbLevels"]  # type: ignore[misc]
    return [{**only, **changes}]


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_a_platform_that_needs_something(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    levels = level(tcbStatus=status, advisoryIDs=["INTEL-SA-00001"])
    verdict = judge(HONEST, collateral_with(monkeypatch, "tcb_info_json", tcbLevels=levels))
    assert codes(verdict) == ["tcb-status"]
    assert verdict.refusals[0].got == f"{status} (INTEL-SA-00001)"
    accepted = dataclasses.replace(samples.SIMULATED, tdx=TdxPolicy(tcb_statuses=frozenset({status})))
    assert codes(judge(HONEST, collateral_with(monkeypatch, "tcb_info_json", tcbLevels=levels), accepted)) == []


def test_a_revoked_level(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = level(tcbStatus="Revoked")
    found = codes(judge(HONEST, collateral_with(monkeypatch, "tcb_info_json", tcbLevels=levels)))
    assert found in (["quote-signature"], ["tcb-status"])


def test_an_old_quoting_enclave(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [{"tcb": {"isvsvn": 1}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "OutOfDate"}]
    assert codes(judge(HONEST, collateral_with(monkeypatch, "qe_identity_json", tcbLevels=levels))) == ["tcb-status"]


@pytest.mark.parametrize("name", ["tcb_info_json", "qe_identity_json"])
def test_old_collateral_of_either_kind(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert codes(judge(HONEST, collateral_with(monkeypatch, name, tcbEvaluationDataNumber=17))) == [
        "tcb-evaluation-number"
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tcb_info_json", {"fmspc": "000000000000"}),
        ("tcb_info_json", {"nextUpdate": "2026-02-01T00:00:00Z"}),
        ("tcb_info_json", {"id": "SGX"}),
        ("tcb_info_json", {"tcbLevels": []}),
        ("qe_identity_json", {"mrsigner": "00" * 32}),
        ("qe_identity_json", {"nextUpdate": "2026-02-01T00:00:00Z"}),
        ("qe_identity_json", {"isvprodid": 1}),
    ],
)
def test_collateral_that_is_not_this_platforms(
    monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    assert codes(judge(HONEST, collateral_with(monkeypatch, name, **changes))) == ["quote-signature"]


@pytest.mark.parametrize(("serial", "found"), [(3, ["quote-signature"]), (99, [])])
def test_a_revoked_machine(serial: int, found: list[str]) -> None:
    """3 is the serial number of the PCK; a list that revokes another machine changes nothing."""
    key = quote.private_key("processor")
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(pki._name("PCK Processor CA"))
        .last_update(pki.NOT_BEFORE)
        .next_update(pki.NOT_AFTER)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(2), critical=False)
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(pki.NOT_BEFORE).build()
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert codes(judge(HONEST, {**quote.collateral(), "pck_crl": crl.hex()})) == found


def test_a_debug_td_is_refused_whatever_the_library_thinks() -> None:
    body = bytearray(HONEST.evidence[48:632])
    body[120] |= 1
    verdict = judge(dataclasses.replace(HONEST, evidence=quote.assemble(bytes(body))))
    assert "td-attributes" in codes(verdict)


# Where the fields of a TD 1.0 report begin, and the refusal that a really signed change must cause.
SIGNED_CHANGES = {
    64: "mrsignerseam",
    112: "seam-attributes",
    123: "td-attributes",
    128: "xfam",
    136: "mrtd",
    184: "mrconfigid",
    232: "mrowner",
    280: "mrownerconfig",
    328: "rtmr0",
    376: "rtmr1",
    424: "rtmr2",
    472: "rtmr3",
    520: "report-data",
    583: "report-data",
}


@pytest.mark.parametrize("at", SIGNED_CHANGES)
def test_a_change_that_the_platform_itself_signed(at: int) -> None:
    """The signature is good, so only the tuple stands between this TD and the prompt."""
    body = bytearray(HONEST.evidence[48:632])
    body[at] ^= 0x20
    found = set(codes(judge(dataclasses.replace(HONEST, evidence=quote.assemble(bytes(body))))))
    # The library has an opinion of its own on the module's signer and on reserved attributes.
    assert SIGNED_CHANGES[at] in found
    assert found <= {SIGNED_CHANGES[at], "quote-signature"}


def test_the_honest_platform() -> None:
    assert codes(judge(HONEST)) == []
    assert isinstance(samples.signature_of(HONEST), QuoteFacts)
