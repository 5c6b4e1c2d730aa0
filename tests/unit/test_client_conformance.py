"""`verify --conformance`: another verifier's answers over the cases, by standard input and output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli_main import Outcome

from privml.base.errors import EvidenceError, HostError, UsageError
from privml.client import conformance
from privml.client.conformance import Answer, Case, Mark, Result, Wanted

CASES = conformance.cases(conformance.directory())
SELF = f"{sys.executable} -c 'from privml.cli.main import main; main()' verify --answer-cases"


def verifier(folder: Path, body: str) -> str:
    """A command that answers each case by ``body``, given the case as ``case``."""
    script = folder / "verifier.py"
    lines = ["import json, sys", "for line in sys.stdin:", "    case = json.loads(line)"]
    script.write_text("\n".join([*lines, *(f"    {line}" for line in body.splitlines())]) + "\n")
    return f"{sys.executable} {script}"


def test_this_verifier_passes(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "verify", "--conformance", SELF)
    assert outcome.code == 0, outcome.stderr
    last = outcome.stdout.splitlines()[-1]
    refused = sum(case.wanted.outcome in ("refused", "malformed") for case in CASES)
    assert last == f"tried {refused}, refused {refused}, wrong code 0, wrong 0"
    assert refused > 200
    assert f"\n{last}\n" in (conformance.directory().parents[2] / "docs/VERIFIERS.md").read_text()


def test_a_verifier_that_accepts_everything_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = 'print(json.dumps({"id": case["id"], "outcome": "accepted-simulated", "codes": []}))'
    outcome = Outcome(capsys, "verify", "--conformance", verifier(tmp_path, answer))
    assert outcome.code == 1
    assert "wrong: nonce-other: a document for another caller" in outcome.stdout
    assert "  got accepted-simulated, expected refused nonce" in outcome.stdout
    assert outcome.stdout.splitlines()[-1].startswith("tried ")
    assert ", refused 0, wrong code 0, wrong " in outcome.stdout
    assert "answers are not the expected ones" in outcome.stderr


def test_a_verifier_that_says_nothing_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = Outcome(capsys, "verify", "--conformance", verifier(tmp_path, "pass"))
    assert outcome.code == 1
    assert "  got no answer, expected accepted-simulated" in outcome.stdout


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print('hello')", "the verifier's line is not an answer"),
        ('print(json.dumps({"id": case["id"], "outcome": "perhaps", "codes": []}))', "expected one of accepted"),
        ('print(json.dumps({"id": "x", "outcome": "refused", "codes": []}))', "that was not asked: `x`"),
        ("sys.exit(3)", "failed with status 3"),
    ],
)
def test_what_is_no_verifier_is_named(
    body: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, "verify", "--conformance", verifier(tmp_path, body))
    assert outcome.code == HostError.exit_code
    assert said in outcome.stderr


def test_a_command_that_is_empty_and_a_folder_without_cases_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a command"):
        conformance.ask(" ", CASES)
    with pytest.raises(UsageError, match="no cases"):
        conformance.cases(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "answer", "mark"),
    [
        (Wanted("refused", frozenset({"a"})), Answer("refused", frozenset({"a"})), Mark.RIGHT),
        (Wanted("refused", frozenset({"a"}), frozenset({"b"})), Answer("refused", frozenset("ab")), Mark.RIGHT),
        (Wanted("refused", frozenset(), frozenset("ab")), Answer("refused", frozenset("b")), Mark.RIGHT),
        (Wanted("refused", frozenset(), frozenset("ab")), Answer("refused"), Mark.WRONG_CODE),
        (Wanted("refused", frozenset("a")), Answer("refused", frozenset("ab")), Mark.WRONG_CODE),
        (Wanted("refused", frozenset("ab")), Answer("refused", frozenset("a")), Mark.WRONG_CODE),
        (Wanted("refused", frozenset("a")), Answer("malformed"), Mark.WRONG_CODE),
        (Wanted("malformed"), Answer("malformed"), Mark.RIGHT),
        (Wanted("malformed"), Answer("refused", frozenset("a")), Mark.WRONG_CODE),
        (Wanted("refused", frozenset("a")), Answer("accepted-simulated"), Mark.WRONG),
        (Wanted("accepted-simulated"), Answer("accepted"), Mark.WRONG),
        (Wanted("accepted-simulated"), Answer("refused", frozenset("a")), Mark.WRONG),
        (Wanted("accepted-simulated"), None, Mark.WRONG),
    ],
)
def test_marks(wanted: Wanted, answer: Answer | None, mark: Mark) -> None:
    assert Result(Case("x", "x", {}, wanted), answer).mark is mark


def test_a_question_has_what_the_contract_says() -> None:
    """docs/VERIFIERS.md, "The protocol"."""
    for case in CASES:
        assert set(case.question) == {
            *("format", "id", "document", "statement", "collateral", "purpose", "policy", "nonce"),
            *("tls_spki_sha256", "time", "simulated_root", "device_collateral", "simulated_device_roots"),
        }
        assert json.loads(json.dumps(case.question)) == case.question


def question(name: str = "device-honest", **changes: Any) -> bytes:
    """A case as a line, with other fields."""
    (case,) = (case for case in CASES if case.name == name)
    given = {**case.question, **changes}
    return json.dumps({key: value for key, value in given.items() if value is not GONE}).encode()


GONE = object()
ROOTS = json.loads(question())["simulated_device_roots"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device_collateral": GONE}, "device_collateral"),
        ({"simulated_device_roots": GONE}, "simulated_device_roots"),
        ({"simulated_device_roots": [ROOTS]}, "case.simulated_device_roots"),
        ({"simulated_device_roots": {"devices": ROOTS["devices"]}}, "rims"),
        ({"simulated_device_roots": {**ROOTS, "more": ""}}, "more"),
        ({"simulated_device_roots": {**ROOTS, "rims": "?"}}, "case.simulated_device_roots.rims"),
        ({"simulated_device_roots": {**ROOTS, "rims": "A" * 40_000}}, "case.simulated_device_roots.rims"),
        ({"more": 1}, "more"),
    ],
)
def test_a_line_that_is_no_case_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        conformance.answer(question(**changes))


@pytest.mark.parametrize(
    "collateral",
    [
        [],
        {"ocsp": []},
        {"ocsp": [], "rims": [], "more": []},
        {"ocsp": ["?"], "rims": []},
        {"ocsp": [""] * 129, "rims": []},
    ],
)
def test_collateral_of_devices_in_another_form_is_malformed(collateral: object) -> None:
    """As other evidence that cannot be read: there is nothing to judge."""
    assert conformance.answer(question(device_collateral=collateral))["outcome"] == conformance.MALFORMED


def test_collateral_and_roots_of_devices_decide() -> None:
    def codes(**changes: Any) -> object:
        return conformance.answer(question(**changes))["codes"]

    assert codes() == []
    assert codes(device_collateral=None) == ["gpu-revocation", "gpu-rim"]  # the document has none
    assert codes(simulated_device_roots=None) == ["gpu-collateral", "gpu-simulated"]
    swapped = {"devices": ROOTS["rims"], "rims": ROOTS["devices"]}
    assert codes(simulated_device_roots=swapped) == ["gpu-chain", "gpu-collateral"]
