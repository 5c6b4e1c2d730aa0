"""`measure` and `inspect` of a CCA realm's token: every claim, who signed it, and values that the caller states."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import attestation_samples
import cca_samples as samples
import pytest
import snp_samples
from cca_samples import CHALLENGE, OTHER_KEY, PLATFORM_KEY, REMS, RIM, Sample
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures

REPOSITORY = Path(__file__).parents[2]
KEY = ["--platform-key", "platform.pub"]
VALUES = [f"--value=rim={RIM.hex()}", *(f"--value=rem{number}={rem.hex()}" for number, rem in enumerate(REMS))]


@pytest.fixture(autouse=True)
def files(place: Path) -> Path:  # noqa: F811
    (place / "token.cbor").write_bytes(Sample().token())
    (place / "platform.pub").write_bytes(samples.pem(PLATFORM_KEY))
    (place / "other.pub").write_bytes(samples.pem(OTHER_KEY))
    return place


def inspected(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    outcome = Outcome(capsys, "inspect", *words, "--json")
    return outcome.code, json.loads(outcome.stdout)


def test_a_token_with_the_stated_values_is_equal(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["token.cbor", *KEY, *VALUES, "--report-data", CHALLENGE.hex()]
    outcome = Outcome(capsys, "inspect", *words)
    assert (outcome.code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0] == (
        "SIGNED BY THE KEY THAT YOU NAMED, EQUAL to the values given: token.cbor, attestation token of an Arm CCA "
        "realm; proves no key and no freshness"
    )
    assert lines[1:7] == [f"  {name}: equal" for name in ("rim", "rem0", "rem1", "rem2", "rem3", "report data")]
    assert "no RIM is computed here" in outcome.stdout
    code, told = inspected(capsys, *words)
    assert (code, told["origin"], told["equal"], told["not_compared"]) == (0, "named-key", True, [])
    assert told["registers"]["rim"] == RIM.hex()


@pytest.mark.parametrize("name", ["rim", "rem0", "rem3", "report data"])
def test_one_other_value_differs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = "11" * 32
    stated = ["--report-data", other] if name == "report data" else [f"--value={name}={other}"]
    code, told = inspected(capsys, "token.cbor", *KEY, *stated)
    assert (code, told["equal"]) == (1, False)
    assert [value["name"] for value in told["values"] if not value["equal"]] == [name]


def test_one_of_two_values_of_a_name_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    two = [f"--value=rim={'11' * 32}", f"--value=rim={RIM.hex()}"]
    assert inspected(capsys, "token.cbor", *KEY, *two)[0] == 0


@pytest.mark.parametrize(
    ("sample", "key", "origin", "codes"),
    [
        (Sample(), [], "unproven", ["cca-platform-key"]),
        (Sample(), ["--platform-key", "other.pub"], "refused", ["cca-platform-signature"]),
        (Sample(realm_key=OTHER_KEY), KEY, "refused", ["cca-realm-signature"]),
        (Sample(platform={10: bytes(32)}), KEY, "refused", ["cca-binding"]),
        (Sample(platform={2395: 0}), KEY, "named-key", ["cca-lifecycle"]),
    ],
)
def test_equal_values_change_nothing_where_nobody_vouches(
    sample: Sample, key: list[str], origin: str, codes: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "token.cbor").write_bytes(sample.token())
    code, told = inspected(capsys, "token.cbor", *key, *VALUES)
    assert (code, told["origin"], told["equal"]) == (8, origin, True)
    assert [each["code"] for each in told["refusals"]] == codes


def test_every_claim_is_shown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = dataclasses.replace(Sample(), platform={2400: "a\x1b[2J", 2394: 7}, realm={44242: "x"})
    (files / "token.cbor").write_bytes(hostile.token())
    for verb in ("measure", "inspect"):
        outcome = Outcome(capsys, verb, "token.cbor")
        assert "\x1b" not in outcome.stdout
        for word in (
            RIM.hex(),
            REMS[3].hex(),
            CHALLENGE.hex(),
            "lifecycle: 0x3003 (secured)",
            "platform claim 2394: 07",
        ):
            assert word in outcome.stdout, word
        assert "claims that are not known here" in outcome.stdout
    assert "its signatures were not checked" in Outcome(capsys, "measure", "token.cbor").stdout


def test_a_token_as_text_or_in_json_is_read(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "hex").write_text(Sample().token().hex())
    assert inspected(capsys, "hex", *KEY, *VALUES)[0] == 0


def test_registers_of_another_token(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "same.cbor").write_bytes(Sample().token())
    (files / "other.cbor").write_bytes(Sample(realm={44238: bytes(32)}).token())
    assert inspected(capsys, "token.cbor", *KEY, "--registers", "same.cbor")[0] == 0
    assert inspected(capsys, "token.cbor", *KEY, "--registers", "other.cbor")[0] == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["token.cbor", "--value", "mrtd=00"], "expected NAME=HEX with a name of rim, rem0, rem1, rem2, rem3"),
        (["token.cbor", "--value", "rim"], "--value: got `rim`, expected NAME=HEX"),
        (["token.cbor", "--value", "rim=XX"], "--value rim: expected lower-case hex"),
        (["token.cbor", "--value", "rim=00", "--registers", "token.cbor"], "neither with --value"),
        (["token.cbor", "--platform-key", "token.cbor"], "no public key in PEM or DER"),
        (["token.cbor", "--at", "2026-11-18T00:00:00Z"], "--at is for quotes and reports"),
        (["token.cbor", "--collateral", "platform.pub"], "--collateral is for quotes and reports"),
        (["quote.bin", *KEY], "--platform-key is for a token of a CCA realm"),
        (["demo-cpu", *KEY], "--platform-key is for a file with a quote"),
    ],
)
def test_what_makes_no_sense_is_usage(
    words: list[str], text: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "quote.bin").write_bytes(attestation_samples.document().evidence)
    outcome = Outcome(capsys, "inspect", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr


def test_values_of_quotes_and_reports_are_stated_alike(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: files / "cache")
    (files / "quote.bin").write_bytes(attestation_samples.document().evidence)
    (files / "report.bin").write_bytes(snp_samples.document().evidence)
    mrtd = attestation_samples.FIRMWARE_MRTD.hex()
    assert inspected(capsys, "quote.bin", f"--value=mrtd={mrtd}")[1]["equal"] is True
    assert inspected(capsys, "report.bin", f"--value=launch={snp_samples.DIGEST.hex()}")[1]["equal"] is True
    assert inspected(capsys, "report.bin", f"--value=launch={'00' * 48}")[1]["equal"] is False


def test_a_malformed_token_is_exit_9(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "token.cbor").write_bytes(Sample().token()[:-1])
    outcome = Outcome(capsys, "inspect", "token.cbor", *KEY)
    assert (outcome.code, outcome.stdout) == (9, "")


def test_every_code_is_in_the_guide() -> None:
    from privml.verify import cca

    guide = (REPOSITORY / "docs" / "VERIFYING.md").read_text()
    for code, meaning in cca.CODES.items():
        assert f"| `{code}` | {meaning} |" in guide
