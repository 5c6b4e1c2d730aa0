"""A sample of the negative matrix on this verifier (all of it: `make check-full`), and the matrix itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import attestation_samples as samples
import pytest
from tests.negative import altered, cases, device_matrix, devicepki, devices, forge, matrix, pki, vectors

from privml.client import conformance
from privml.events.agent import encode_log
from privml.events.registers import LAUNCH
from privml.evidence import merkle
from privml.evidence.document import listed, parse
from privml.evidence.facts import collect
from privml.evidence.nvidia import rim, roles
from privml.sim import gpu, gpupki
from privml.verify import nvidia, snp
from privml.verify.channelkey import channel
from privml.verify.check import CODES
from privml.verify.publication import demonstration, publication
from privml.verify.receipts import receipt
from privml.verify.releasekey import release
from privml.verify.rules import COLLATERAL_AGE, COLLATERAL_CODES, Check

USERS = {"device_matrix", "examples", "matrix"}
"""The modules of the matrix that ask this verifier, or write with it; all others must know nothing of it."""
# `test_client_conformance` asks the cases, as another verifier would be asked.
SWEEPS = {name: work for name, work in matrix.sweeps(300).items() if name != "cases"}
NEUTRAL = {
    "simulated quotes": {altered.PADDING},
    "genuine quotes": {altered.PADDING},
    "simulated collaterals": {altered.PEM_ENDING},
    "genuine collaterals": {altered.PEM_ENDING},
    "documents": {altered.JSON_SPELLING, altered.BOOT_LOG, altered.PADDING},
    **{f"{name} twins": {f"twin: {said}" for said in matrix.ACCEPTED_TWINS} for name in matrix.SIGNED},
    **{name: {altered.PEM_ENDING} if name.endswith("chain") else set() for name in device_matrix.PARTS},
    "reference values": {altered.XML_SPELLING, altered.FILE_ENDING},
    "device twins": {f"twin: {name}" for name in device_matrix.PARTS},
    "documents with a GPU": set(),
}
LEAST = {**{name: 5 if name.endswith("twins") else 200 for name in SWEEPS}, "device twins": 2}
LEAST["documents with a GPU"] = 90
EXTRA = {"documents with a GPU": {altered.XML_SPELLING, altered.FILE_ENDING}}
"""Neutral kinds that a sample need not hit; for the others, zeros behind a quote."""


@pytest.mark.parametrize("name", SWEEPS)
def test_the_matrix_is_refused_for_the_right_reasons(name: str) -> None:
    tally = SWEEPS[name]()
    assert not tally.wrong
    assert not tally.wrong_code
    assert tally.refused == tally.tried > LEAST[name]
    assert set(tally.neutral) >= NEUTRAL[name]
    assert set(tally.neutral) <= NEUTRAL[name] | EXTRA.get(name, {altered.PADDING})


def test_every_code_is_in_some_case() -> None:
    """Those of versions, channels, releases, receipts, SNP and another allowed root are tested next to their checks.

    Collateral is refused by the same codes on both TEEs.
    """
    elsewhere = {"root", *channel.codes, *release.codes, *publication.codes, *demonstration.codes, *receipt.codes}
    of_snp = {code for check in (snp.RULES.signature, *snp.RULES.checks) for code in check.codes}
    elsewhere |= {LAUNCH, *of_snp - COLLATERAL_CODES.keys() - COLLATERAL_AGE.keys()}
    wanted = {code for case in cases.all_cases().values() for code in (*case.codes, *case.also)}
    assert wanted | elsewhere == set(CODES)
    assert not wanted & elsewhere


def test_every_code_of_devices_is_wanted_by_some_case() -> None:
    """Also alone, so that no other code can stand in for it."""
    declared = {code for check in nvidia.CHECKS for code in check.codes}
    made = cases.all_cases().values()
    assert declared <= {code for case in made for code in case.codes}
    assert declared - {case.codes[0] for case in made if len(case.codes) == 1} == {"gpu-sample"}


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


@pytest.mark.parametrize(("count", "switches"), [(1, 0), (8, 4)])
def test_the_forge_writes_the_devices_that_the_product_simulates(count: int, switches: int) -> None:
    """Reports and chains byte by byte; reference values by what they say, because XML has more than one spelling."""
    board = devices.group(count, switches) if switches else devices.gpus(count)
    guest = forge.Guest(equipment=board)
    facts = collect(parse(guest.document()))
    assert facts.device_nonce == guest.device_nonce
    assert facts.device_evidence == gpu.evidence(guest.device_nonce, count, switches)
    assert facts.devices == listed(facts.device_evidence)
    assert gpupki.roots() == (devicepki.ROOT.der, devicepki.rim_signers("LS10")[-1].der)

    def read(data: bytes) -> dict[str, object]:
        verified = roles.Verified()
        found = rim.read(data, root=gpupki.roots()[1], naming=roles.SIMULATION, now=forge.NOW, verified=verified)
        return {**dataclasses.asdict(found.rim), "sha256": ""}

    made = [read(found.text.encode()) for found in devices.rims(board)]
    assert made == [read(found) for found in gpu.rims(switches=bool(switches))]


WRITERS = sorted({path.stem for path in Path(cases.__file__).parent.glob("*.py")} - USERS)


@pytest.mark.parametrize("module", WRITERS)
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
    tally = matrix.of_cases(cases.binding())
    assert len(tally.wrong) > 20
    assert any(text.startswith("nonce-other: accepted-simulated") for text in tally.wrong)


@pytest.mark.parametrize("check", nvidia.CHECKS, ids=lambda check: min(check.codes))
def test_a_verifier_without_a_check_of_devices_fails_a_case_of_each_of_its_codes(
    check: Check[nvidia.DeviceCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {case.codes[0]: name for name, case in cases.all_cases().items() if len(case.codes) == 1}
    only = {name for code, name in alone.items() if code in check.codes}
    assert len(only) >= len(check.codes) - 1
    assert str(matrix.of_cases(only)) == f"tried {len(only)}, refused {len(only)}, wrong code 0, wrong 0"
    monkeypatch.setattr(nvidia, "CHECKS", tuple(each for each in nvidia.CHECKS if each is not check))
    tally = matrix.of_cases(only)
    assert len(tally.wrong) + len(tally.wrong_code) == len(only)


def test_the_vectors_are_current() -> None:
    """Otherwise: `python -m tests.negative.vectors`."""
    index, inputs = vectors.content()
    assert (vectors.FOLDER / "index.json").read_bytes() == index
    assert conformance.read_inputs(vectors.FOLDER) == inputs
    assert sum(path.stat().st_size for path in vectors.FOLDER.iterdir()) < 2_000_000
