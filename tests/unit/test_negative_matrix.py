"""A sample of the negative matrix on this verifier (all of it: `make check-full`), and the matrix itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import attestation_samples as samples
import pytest
from tests.negative import altered, cases, forge, matrix, pki, vectors

from privml.client import conformance
from privml.events.agent import encode_log
from privml.evidence import merkle
from privml.evidence.document import parse
from privml.evidence.facts import collect
from privml.verify.check import CODES
from privml.verify.publication import publication

SWEEPS = matrix.sweeps(300)
NEUTRAL = {
    "simulated quotes": {altered.PADDING},
    "genuine quotes": {altered.PADDING},
    "simulated collaterals": {altered.PEM_ENDING},
    "genuine collaterals": {altered.PEM_ENDING},
    "documents": {altered.JSON_SPELLING, altered.BOOT_LOG, altered.PADDING},
    **{f"{name} twins": {f"twin: {said}" for said in matrix.ACCEPTED_TWINS} for name in matrix.SIGNED},
    "cases": set(),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_matrix_is_refused_for_the_right_reasons(name: str) -> None:
    tally = SWEEPS[name]()
    assert not tally.wrong
    assert not tally.wrong_code
    assert tally.refused == tally.tried > (5 if name.endswith("twins") else 200)
    assert set(tally.neutral) >= NEUTRAL[name]
    assert set(tally.neutral) <= NEUTRAL[name] | {altered.PADDING}


def test_every_code_is_in_some_case() -> None:
    """Those of devices, published versions, and another root that was allowed are tested next to their checks."""
    elsewhere = {"root", *publication.codes, *(code for code in CODES if code.startswith("gpu-"))}
    given = {code for case in cases.all_cases().values() for code in (*case.codes, *case.also)}
    assert given | elsewhere == set(CODES)
    assert not given & elsewhere


def test_the_forge_writes_the_bytes_that_the_product_writes() -> None:
    """The contracts were written twice, and agree."""
    static = Path(conformance.__file__).parents[1] / "sim/pki"
    assert pki.Platform().collateral() == json.loads((static / "collateral.json").read_text())
    assert pki.Platform().certification() == (static / "certification.bin").read_bytes()
    document = parse(forge.Guest().document())
    facts = collect(document)
    assert facts.report_data == facts.claims.report_data == forge.Guest().bound()
    assert facts.claims.registers["rtmr3"] == facts.agent_rtmr3
    assert encode_log(facts.agent_events) == document.eventlog
    assert facts.boot_log.matches == {"rtmr0", "rtmr1", "rtmr2"}
    assert document.path == merkle.build([forge.NONCE, bytes(32)]).paths[0]
    assert document.encode() == forge.Guest().document()


@pytest.mark.parametrize("module", ["altered", "cases", "forge", "pki"])
def test_the_mutator_uses_nothing_of_the_product(module: str) -> None:
    text = (samples.REPOSITORY / "tests/negative" / f"{module}.py").read_text()
    assert "from privml" not in text
    assert "import privml" not in text


def test_a_hole_is_found() -> None:
    """An accepted change without a kind, and a refusal for another reason, are counted."""
    tally = matrix.Tally()
    tally.add("hole", None, frozenset({"nonce"}), None)
    tally.add("other", frozenset({"xfam"}), frozenset({"nonce"}), None)
    tally.add("malformed", frozenset(), frozenset({"nonce"}), None)
    tally.add("spelling", None, frozenset(), altered.JSON_SPELLING)
    assert str(tally) == "tried 3, refused 2, wrong code 1, wrong 1"
    assert tally.wrong == ["hole"]
    assert tally.neutral == {altered.JSON_SPELLING: 1}


def test_a_verifier_that_skips_a_check_fails_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    from privml.verify import check

    monkeypatch.setattr(check, "binding", dataclasses.replace(check.binding, find=lambda _: iter(())))
    tally = matrix.of_cases()
    assert len(tally.wrong) > 20
    assert any(text.startswith("nonce-other: accepted-simulated") for text in tally.wrong)


def test_the_vectors_are_current() -> None:
    """Otherwise: `python -m tests.negative.vectors`."""
    index, inputs = vectors.content()
    assert (vectors.FOLDER / "index.json").read_bytes() == index
    assert conformance.read_inputs(vectors.FOLDER) == inputs
    assert sum(path.stat().st_size for path in vectors.FOLDER.iterdir()) < 2_000_000
