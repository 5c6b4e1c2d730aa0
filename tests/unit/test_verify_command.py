"""`verify` of bundles and files: whose nonce and which time the verdict says, and what is no document."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import cca_samples
import guest_fake
import pytest
from guest_fake import Guest
from html_page import Page
from test_cli_main import Outcome, as_found, captured, image, place  # noqa: F401 - fixtures
from test_readers_files import LOG, QUOTE, REPORT

import privml
from privml.base.errors import UsageError
from privml.base.strictjson import canonical, pretty
from privml.base.times import time_text
from privml.client.subject import time_of
from privml.evidence import bundle
from privml.evidence.bundle import Bundle
from privml.verify.verdict import Outcome as Result

BASE = ["--expect", "out/demo-cpu", "--allow-simulated", "root.pem"]
BEFORE = samples.NOW - 7 * 86400
MADE = Bundle(samples.document().encode(), samples.NONCE, samples.SPKI, BEFORE)
OF_THE_BUNDLE = "with the bundle's nonce, not yours"


@pytest.fixture(autouse=True)
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An image, the root of its simulated platform, and a bundle of a week ago."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    captured(place)
    (place / "bundle.json").write_bytes(MADE.encode())
    return place


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        yield running


def test_a_saved_bundle_is_judged_by_another_person(
    guest: Guest,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    fresh = Outcome(capsys, "verify", guest.url, *BASE, "--save", "saved.json")
    assert fresh.code == 10
    assert "nonce" not in fresh.stdout.splitlines()[0]
    made = bundle.decode((place / "saved.json").read_bytes())
    assert fresh.stderr == f"nonce {made.nonce.hex()}, spki {made.tls_spki_sha256.hex()}: saved.json\n"
    assert (made.tls_spki_sha256, made.judged_at, made.collateral) == (guest.spki, samples.NOW, None)
    again = Outcome(capsys, "verify", "saved.json", *BASE)
    assert (again.code, again.stderr) == (10, "")
    first, *rest = again.stdout.splitlines()
    assert first == f"{fresh.stdout.splitlines()[0]}, {OF_THE_BUNDLE}, as of 2026-11-18T11:06:40Z (now)"
    assert rest == fresh.stdout.splitlines()[1:]
    assert [path.name for path in place.iterdir() if path.name.startswith(".saved")] == []


def test_a_refused_guest_is_saved_too(guest: Guest, place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert Outcome(capsys, "verify", guest.url, "--expect", "out/demo-cpu", "--save", "saved.json").code == 8
    assert bundle.decode((place / "saved.json").read_bytes()).judged_at == samples.NOW


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ([], f"{OF_THE_BUNDLE}, as of 2026-11-18T11:06:40Z (now)"),
        (["--at", "bundle"], f"{OF_THE_BUNDLE}, as of 2026-11-11T11:06:40Z (the bundle's time, not now)"),
        (
            ["--at", "2026-11-01T00:00:00Z"],
            f"{OF_THE_BUNDLE}, as of 2026-11-01T00:00:00Z (the time you gave, not now)",
        ),
        (["--at", str(samples.NOW)], f"{OF_THE_BUNDLE}, as of 2026-11-18T11:06:40Z (now)"),
        (["--nonce", samples.NONCE.hex()], "with your nonce, as of 2026-11-18T11:06:40Z (now)"),
    ],
)
def test_the_first_line_says_whose_nonce_and_which_time(
    words: list[str], end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, "verify", "bundle.json", *BASE, *words)
    assert outcome.code == 10
    assert outcome.stdout.splitlines()[0].endswith(f"against the build in out/demo-cpu, {end}")


def test_the_json_says_whose_nonce_and_which_time(capsys: pytest.CaptureFixture[str]) -> None:
    for words, nonce_of, time in (
        (["bundle.json", "--at", "bundle"], "bundle", BEFORE),
        (["bundle.json", "--nonce", samples.NONCE.hex()], "caller", samples.NOW),
        (["doc.json", "--nonce", samples.NONCE.hex()], "caller", samples.NOW),
        (["doc.json"], None, samples.NOW),
    ):
        told = json.loads(Outcome(capsys, "verify", *words, *BASE, "--json").stdout)
        assert (told["nonce_of"], told["judged_at"]) == (nonce_of, time)


def test_a_bundle_is_judged_now_unless_the_caller_asks_for_its_time(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The simulation's collateral ends in 2049: a stranger's old bundle must not be accepted by its own clock."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: time_of("2051-01-01T00:00:00Z"))
    late = Outcome(capsys, "verify", "bundle.json", *BASE)
    assert late.code == 8
    assert late.stderr == (
        "hint: `--at bundle` judges as of 2026-11-11T11:06:40Z, when the bundle says that it was made\n"
    )
    asked = Outcome(capsys, "verify", "bundle.json", *BASE, "--at", "bundle")
    assert (asked.code, asked.stderr) == (10, "")


def test_your_own_nonce_and_key_replace_the_bundles(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--nonce", "ff" * 32], "nonce"), (["--spki", "ff" * 32], "tls-key")):
        outcome = Outcome(capsys, "verify", "bundle.json", *BASE, *words, "--json")
        assert outcome.code == 8
        assert [refusal["code"] for refusal in json.loads(outcome.stdout)["refusals"]] == [code]


def test_the_callers_collateral_goes_into_the_bundle(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = dataclasses.replace(samples.document(), collateral=None).encode()
    (files / "doc.json").write_bytes(bare)
    (files / "collateral.json").write_bytes(pretty(samples.sim.collateral()))
    words = ["--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--collateral", "collateral.json"]
    assert Outcome(capsys, "verify", "doc.json", *BASE, *words, "--save", "saved.json").code == 10
    made = bundle.decode((files / "saved.json").read_bytes())
    assert (made.document, made.collateral) == (bare, {"tdx": samples.sim.collateral()})
    assert Outcome(capsys, "verify", "saved.json", *BASE).code == 10
    bad = dataclasses.replace(made, collateral={"tdx": {**samples.sim.collateral(), "tcb_info_signature": "00" * 64}})
    (files / "saved.json").write_bytes(bad.encode())
    assert Outcome(capsys, "verify", "saved.json", *BASE).code == 8
    assert Outcome(capsys, "verify", "saved.json", *BASE, "--collateral", "collateral.json").code == 10


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["https://127.0.0.1:1", "--at", "bundle"], "--at is for a file; a guest is judged now"),
        (["doc.json", "--at", "bundle"], "--at bundle: the file is a document without a time"),
        (["bundle.json", "--at", "yesterday"], "--at yesterday: expected a time like 2026-11-29T04:00:00Z"),
        (["bundle.json", "--at", "-5"], "--at -5: expected a time"),
        (["bundle.json", "--at", "9" * 30], "expected a time"),
        (["doc.json", "--save", "saved.json"], "--save: a bundle needs the document's nonce and key"),
    ],
)
def test_what_makes_no_sense_is_usage(
    words: list[str], text: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, "verify", *words, *BASE)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr
    assert not (files / "saved.json").exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (QUOTE, "TDX quote, version 4"),
        (QUOTE.hex().encode(), "TDX quote, version 4"),
        (json.dumps({"quote": QUOTE.hex()}).encode(), "TDX quote, version 4"),
        (REPORT, "TDREPORT"),
        (cca_samples.Sample().token(), "attestation token of an Arm CCA realm"),
    ],
)
def test_bare_evidence_is_for_inspect(
    data: bytes, what: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "bare").write_bytes(data)
    outcome = Outcome(capsys, "verify", "bare", *BASE)
    assert (outcome.code, outcome.stdout) == (9, "")
    assert f"bare is only `{what}" in outcome.stderr
    assert "it proves no key and no freshness" in outcome.stderr
    assert outcome.stderr.endswith("hint: `privml-build inspect bare` judges its signature and its values\n")


@pytest.mark.parametrize(
    "data",
    [
        LOG,
        canonical({**json.loads(samples.document().encode()), "more": 1}),
        canonical({**json.loads(MADE.encode()), "more": 1}),
        canonical({**json.loads(MADE.encode()), "document": "AA=="}),
    ],
)
def test_other_files_keep_their_own_error(data: bytes, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bad").write_bytes(data)
    outcome = Outcome(capsys, "verify", "bad", *BASE)
    assert (outcome.code, outcome.stdout) == (9, "")
    assert "inspect" not in outcome.stderr


def test_large_files_are_not_read_whole(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code, words in (
        ("collateral", 9, ["--collateral", "large"]),
        ("root", 2, ["--expect", "out/demo-cpu", "--allow-simulated", "large"]),
    ):
        with (files / "large").open("wb") as file:
            file.truncate(1 << 40)
        outcome = Outcome(capsys, "verify", "doc.json", *BASE, *words)
        assert outcome.code == code, name


def test_the_verdict_is_written_as_a_page_too(
    guest: Guest,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = Outcome(capsys, "verify", guest.url, *BASE)
    assert (plain.code, Outcome(capsys, "verify", guest.url, *BASE, "--html", "a.html").stdout) == (10, plain.stdout)
    text = Page((place / "a.html").read_text()).text
    assert "ACCEPTED-SIMULATED (no hardware vouches for this)" in text
    assert f"{guest.url}, as of 2026-11-18T11:06:40Z" in text
    refused = Outcome(capsys, "verify", "bundle.json", *BASE[:2], "--html", "b.html", "--json")
    assert (refused.code, json.loads(refused.stdout)["outcome"]) == (8, "refused")
    text = Page((place / "b.html").read_text()).text
    assert "simulated: the evidence comes from a simulation" in text
    assert f"bundle.json, {OF_THE_BUNDLE}, as of 2026-11-18T11:06:40Z" in text


def test_the_library_judges_bundles(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privml.client.calls.time.time", lambda: time_of("2051-01-01T00:00:00Z"))
    about = {"expect": "out/demo-cpu", "allow_simulated": "root.pem"}
    assert privml.verify("bundle.json", **about).keys is None
    for at in ("bundle", samples.NOW):
        assert privml.verify(MADE.encode(), at=at, **about).verdict.outcome is Result.ACCEPTED_SIMULATED
    assert privml.verify("bundle.json", at="bundle", nonce=bytes(32), **about).keys is None
    with pytest.raises(UsageError, match="only a bundle has a time"):
        privml.verify("doc.json", at="bundle", **about)


def test_times_are_spelled_in_one_way() -> None:
    assert time_of(time_text(samples.NOW)) == samples.NOW == time_of(str(samples.NOW))
    for text in ("2026-11-29", "2026-11-29T04:00:00", "2026-11-29T04:00:00+01:00", "", "²", "1.5"):
        with pytest.raises(ValueError):
            time_of(text)
