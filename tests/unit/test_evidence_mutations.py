"""Every byte of document, quote and collateral is read or refused (`evidence_mutator`).

A sample of all changes here; with ``PRIVML_FULL=1`` every position.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import attestation_samples as samples
import evidence_mutator as mutator
import pytest
from evidence_mutator import Evidence

from privml.base.errors import EvidenceError
from privml.base.strictjson import loads
from privml.evidence import document
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import signature
from privml.evidence.tees import check_signature

FULL = os.environ.get("PRIVML_FULL") == "1"
MADE = samples.document()
SIMULATED = Evidence(MADE.evidence, samples.sim.collateral())
REAL = Evidence(
    (samples.VECTORS / "tdx_quote.bin").read_bytes(),
    collaterals.decode(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes())),
)
JUNE_2025 = 1_750_420_000
SIGNED: dict[str, tuple[Evidence, int, bytes | None]] = {
    "simulated": (SIMULATED, samples.NOW, samples.ROOT),
    "real": (REAL, JUNE_2025, None),
}

# A twin is another valid signature by the same key over the same bytes, so nothing else can be proven with it. The
# root is compared byte for byte with the anchor, and the PCK CA of the revocation list with the quote's.
ACCEPTED_TWINS = {
    *("quote", "QE report", "PCK in the quote"),
    *("tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"),
    *("first of tcb_info_issuer_chain", "first of qe_identity_issuer_chain"),
}
REFUSED_TWINS = {
    *("PCK CA in the quote", "root in the quote", "first of pck_crl_issuer_chain"),
    *(f"root of {name}" for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")),
}


def genuine(given: Evidence, now: int, root: bytes | None) -> bool:
    try:
        decoded = collaterals.decode(given.collateral)
        checked = signature.check(given.quote, decoded, now=now, simulated_root=root)
    except EvidenceError:
        return False
    return not isinstance(checked, SignatureFailure)


def accepted(data: bytes) -> bool:
    try:
        made = document.parse(data)
        facts = samples.facts_of(made)
        checked = check_signature(
            made, facts.claims.tee, collateral=None, now=samples.NOW, simulated_root=samples.ROOT
        )
        given: dict[str, Any] = {"facts": facts, "signature": checked}
        return not samples.judge(made, **given).verdict.refusals
    except EvidenceError:
        return False


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize(("change", "count"), [("quotes", 250), ("collaterals", 15)])
def test_every_byte_of_quote_and_collateral(name: str, change: str, count: int) -> None:
    given, now, root = SIGNED[name]
    assert genuine(given, now, root)
    tried: Counter[str] = Counter()
    for changed in getattr(mutator, change)(given, 0 if FULL else count, random.Random(name)):
        if changed == given:
            continue
        tried["all"] += 1
        if genuine(changed, now, root):
            kind = mutator.kind_of_evidence(given, changed)
            assert kind in mutator.KINDS, changed
            tried[kind] += 1
    assert tried["all"] > 1000
    assert tried.keys() - {"all"} == {mutator.PADDING if change == "quotes" else mutator.PEM_ENDING}


def test_every_byte_of_a_document() -> None:
    given = MADE.encode()
    assert accepted(given)
    tried: Counter[str] = Counter()
    for changed in mutator.documents(given, 0 if FULL else 50, random.Random("document")):
        if changed == given:
            continue
        tried["all"] += 1
        if accepted(changed):
            kind = mutator.kind_of_document(given, changed)
            assert kind in mutator.KINDS, changed
            tried[kind] += 1
    assert tried["all"] > 1500
    assert {mutator.JSON_SPELLING, mutator.BOOT_LOG, mutator.PADDING} <= tried.keys()


@pytest.mark.parametrize("name", SIGNED)
def test_signature_twins(name: str) -> None:
    given, now, root = SIGNED[name]
    made = mutator.twins(given)
    assert made.keys() == ACCEPTED_TWINS | REFUSED_TWINS
    assert {said for said, changed in made.items() if genuine(changed, now, root)} == ACCEPTED_TWINS
