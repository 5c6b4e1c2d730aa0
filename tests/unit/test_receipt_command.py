"""`receipt verify`: what the first line says, exit statuses, and what is compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import attestation_samples as samples
import pytest
from receipt_samples import HONEST, exchange
from test_cli_main import Outcome, as_found, captured, image, place  # noqa: F401 - fixtures
from tests.receipts import REQUEST, RESPONSE, body

from privml.client.subject import time_of

BASE = ["ID.json", "--expect", "out/demo-cpu", "--allow-simulated", "root.pem"]
BODIES = ["--request", "ID.request", "--response", "ID.response"]
BEFORE = samples.NOW - 7 * 86400


@pytest.fixture(autouse=True)
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An image, the root of its simulated platform, and an exchange of a week ago with its bodies."""
    monkeypatch.setattr("privml.cli.receipt.time.time", lambda: samples.NOW)
    captured(place)
    (place / "ID.json").write_bytes(exchange(judged_at=BEFORE).encode())
    (place / "ID.request").write_bytes(REQUEST)
    (place / "ID.response").write_bytes(RESPONSE)
    return place


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Outcome:
    return Outcome(capsys, "receipt", "verify", *BASE, *words)


def test_an_honest_receipt_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(capsys, *BODIES)
    assert (outcome.code, outcome.stderr) == (10, "")
    lines = outcome.stdout.splitlines()
    assert lines[0] == (
        "ACCEPTED-SIMULATED (no hardware vouches for this): demo-cpu (production), "
        "against the build in out/demo-cpu, as of 2026-11-18T11:06:40Z (now)"
    )
    assert lines[-4:] == [
        "  receipt: 000102030405060708090a0b0c0d0e0f, number 7 in the guest's boot, over tls",
        "  request: POST /v1/completions, equal to the one given",
        "  answer: 200 application/json, complete, equal to the one given",
        "  usage: 5 tokens of prompt, 3 of completion, as the engine counted them",
    ]


@pytest.mark.parametrize("at", ["bundle", str(BEFORE), "2026-11-11T11:06:40Z"])
def test_another_time_is_on_the_presenters_word(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(capsys, *BODIES, "--at", at)
    assert outcome.code == 10
    assert outcome.stdout.splitlines()[0].endswith(", as of 2026-11-11T11:06:40Z, on the presenter's word")


def test_a_receipt_is_judged_now_unless_the_verifier_asks_for_another_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The simulation's collateral ends in 2049: an old file must not be accepted by its own clock."""
    monkeypatch.setattr("privml.cli.receipt.time.time", lambda: time_of("2051-01-01T00:00:00Z"))
    assert run(capsys, *BODIES).code == 8
    assert run(capsys, *BODIES, "--at", "bundle").code == 10


def test_a_cut_answer_is_shown_as_cut(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = RESPONSE[:10]
    (files / "ID.json").write_bytes(exchange(replace(HONEST, complete=False, response=body(cut))).encode())
    (files / "ID.response").write_bytes(cut)
    outcome = run(capsys, *BODIES)
    assert outcome.code == 8
    assert "receipt-incomplete: the answer was cut before its end" in outcome.stdout
    assert "  answer: 200 application/json, CUT after 10 bytes, equal to the one given" in outcome.stdout


def test_without_bodies_the_hint_names_the_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(capsys)
    assert outcome.code == 8
    assert f"complete, not compared: sha256 {body(RESPONSE).sha256.hex()} of " in (outcome.stdout)
    assert outcome.stderr == (
        "hint: give --request ID.request --response ID.response, or --hashes-only to accept without\n"
    )
    (files / "ID.response").unlink()
    assert run(capsys, "--request", "ID.request").stderr.startswith("hint: give --response FILE, or")
    outcome = run(capsys, "--hashes-only")
    assert (outcome.code, outcome.stderr) == (10, "")
    assert outcome.stdout.count("not compared: sha256 ") == 2


def test_an_altered_answer_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "ID.response").write_bytes(RESPONSE.replace(b"Paris", b"Lyons"))
    outcome = run(capsys, *BODIES, "--hashes-only")
    assert outcome.code == 8
    assert outcome.stdout.startswith("REFUSED: demo-cpu (production), ")
    assert "  answer: 200 application/json, complete, not the one given" in outcome.stdout


def test_the_json_has_verdict_and_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *BODIES, "--at", "bundle", "--json").stdout)
    assert found["binding"] == "receipt-key"
    assert (found["outcome"], found["refusals"], found["judged_at"]) == ("accepted-simulated", [], BEFORE)
    assert found["receipt"] == HONEST.to_dict()
    found = json.loads(run(capsys, "--nonce", "00" * 32, "--json").stdout)
    assert [refusal["code"] for refusal in found["refusals"]] == ["receipt-nonce", "request-hash", "response-hash"]


def test_a_receipt_of_another_key_shows_nothing_of_itself(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "ID.json").write_bytes(exchange(document=samples.document().encode()).encode())
    outcome = run(capsys, *BODIES)
    assert outcome.code == 8
    assert "receipt-signature" in outcome.stdout
    assert "  receipt: " not in outcome.stdout
    assert json.loads(run(capsys, *BODIES, "--json").stdout)["receipt"] is None


@pytest.mark.parametrize("data", [b"", b"{}", samples.document().encode(), exchange().encode()[:-1]])
def test_what_is_no_exchange_is_malformed(data: bytes, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "ID.json").write_bytes(data)
    outcome = run(capsys, *BODIES)
    assert (outcome.code, outcome.stdout) == (9, "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--at", "yesterday"], "--at yesterday: expected a time like 2026-11-29T04:00:00Z, or `bundle`"),
        (["--nonce", "5a"], "--nonce: got `5a`, expected 64 lower-case hex digits"),
        (["--request", "missing"], "missing"),
        (["--trust", "root.json", "demo-cpu"], "--expect and --trust are both given"),
    ],
)
def test_what_makes_no_sense_is_usage(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(capsys, *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr


@pytest.mark.parametrize("content", [b"", b"garbage", REQUEST, bytes(1 << 20), b'{"format":"privml-bundle/v1"}'])
def test_another_file_is_malformed_and_the_hint_says_which_file_is_wanted(
    content: bytes, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "ID.json").write_bytes(content)
    outcome = run(capsys, *BODIES)
    assert (outcome.code, outcome.stdout) == (9, "")
    error, hint = outcome.stderr.splitlines()
    assert error.startswith("privml-build: ID.json: exchange")
    assert hint == "hint: expected the file ID.json that `proxy --receipts` wrote for this answer"


def test_verify_names_the_verb_for_a_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "verify", *BASE)
    assert (outcome.code, outcome.stdout) == (9, "")
    assert "ID.json is the receipt of an answer, expected an attestation document or a bundle" in outcome.stderr
    assert "hint: `privml-build receipt verify ID.json` checks it" in outcome.stderr
