"""`inspect FILE`: a bare quote, report or token is judged, and never accepted."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import attestation_samples as samples
import pytest
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from test_readers_files import LOG, QUOTE, REPORT

from privml.base.strictjson import canonical, pretty
from privml.events.registers import MRTD, RTMR2, TDX_REGISTERS
from privml.evidence.bundle import Bundle
from privml.evidence.tdx import quote as quotes
from privml.measure.digest import sha384
from privml.sim import quote as sim
from privml.verify.verdict import Outcome as Result

VALUES = samples.registers(samples.extends(4 << 30))
DATA = bytes(range(64))
SIMULATED = ["--collateral", "collateral.json", "--allow-simulated", "root.pem"]
INTEL = samples.VECTORS / "tdx_quote.bin"
INTEL_COLLATERAL = samples.VECTORS / "tdx_quote_collateral.json"
THEN = "2025-06-20T00:00:00Z"


def token(claims: object) -> bytes:
    parts = (json.dumps({"alg": "PS384"}).encode(), json.dumps(claims).encode(), b"signature")
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


@pytest.fixture(autouse=True)
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A simulated quote of the made-up image's values, and what judges it."""
    monkeypatch.setattr("privml.cli.inspect_file.time.time", lambda: samples.NOW)
    image(place)
    (place / "quote.bin").write_bytes(sim.make_quote(VALUES, DATA))
    (place / "root.pem").write_bytes(sim.root_pem())
    (place / "collateral.json").write_bytes(pretty(sim.collateral()))
    return place


def test_a_simulated_quote_of_the_image_is_equal_and_proves_nothing_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["inspect", "quote.bin", *SIMULATED, "--expect", "out/demo-cpu", "--report-data", DATA.hex()]
    outcome = Outcome(capsys, *words)
    assert (outcome.code, outcome.stderr) == (10, "")
    lines = outcome.stdout.splitlines()
    assert lines[0] == (
        "SIMULATED (no hardware vouches for this), EQUAL to the build in out/demo-cpu: quote.bin, TDX quote, version "
        "4, TD 1.0 body; proves no key and no freshness"
    )
    assert lines[1:3] == [
        "  checked as of 2026-11-18T11:06:40Z (now)",
        "  shape: qemu-11-q35, 4 vcpus, 4096 MiB",
    ]
    assert lines[3:9] == [f"  {name}: equal" for name in (*TDX_REGISTERS, "report data")]
    assert "ACCEPTED" not in outcome.stdout
    told = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert (told["origin"], told["equal"], told["not_compared"]) == ("simulated", True, [])
    assert (told["proves_key"], told["proves_freshness"]) == (False, False)


def test_a_simulated_quote_without_its_root_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "inspect", "quote.bin", *SIMULATED[:2], "--expect", "out/demo-cpu", "--json")
    told = json.loads(outcome.stdout)
    assert (outcome.code, told["origin"], told["equal"]) == (8, "refused", True)
    assert [refusal["code"] for refusal in told["refusals"]] == ["simulated"]


@pytest.mark.parametrize("name", [*TDX_REGISTERS, "report data"])
def test_one_other_value_differs(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {register: sha384(b"other") if register == name else value for register, value in VALUES.items()}
    (files / "quote.bin").write_bytes(sim.make_quote(values, bytes(64) if name == "report data" else DATA))
    words = ["inspect", "quote.bin", *SIMULATED, "--expect", "out/demo-cpu", "--report-data", DATA.hex()]
    told = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert [value["name"] for value in told["values"] if not value["equal"]] == [name]
    outcome = Outcome(capsys, *words)
    assert outcome.code == 1
    assert ", DIFFERS from the build in out/demo-cpu: " in outcome.stdout
    assert f"  {name}: differs\n    got      " in outcome.stdout


def test_report_data_of_32_bytes_is_followed_by_zeros(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = bytes(range(32))
    (files / "quote.bin").write_bytes(sim.make_quote(VALUES, half + bytes(32)))
    assert Outcome(capsys, "inspect", "quote.bin", *SIMULATED, "--report-data", half.hex()).code == 10
    (files / "quote.bin").write_bytes(sim.make_quote(VALUES, half + half))
    assert Outcome(capsys, "inspect", "quote.bin", *SIMULATED, "--report-data", half.hex()).code == 1


def test_a_genuine_quote_is_judged_at_its_time(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Intel signed it; its collateral is of evaluation 17, which the default policy refuses by name."""
    words = ["inspect", str(INTEL), "--collateral", str(INTEL_COLLATERAL), "--json"]
    told = json.loads(Outcome(capsys, *words, "--at", THEN).stdout)
    assert (told["origin"], told["equal"], told["as_of"]) == ("genuine", None, 1_750_377_600)
    assert [refusal["code"] for refusal in told["refusals"]] == ["tcb-evaluation-number"]
    now = Outcome(capsys, *words)
    assert (now.code, json.loads(now.stdout)["origin"]) == (8, "refused")
    data = bytearray(INTEL.read_bytes())
    data[quotes.HEADER_SIZE + 136] ^= 1
    (files / "altered.bin").write_bytes(data)
    told = json.loads(Outcome(capsys, "inspect", "altered.bin", *words[2:], "--at", THEN).stdout)
    assert told["origin"] == "refused"
    assert "quote-signature" in [refusal["code"] for refusal in told["refusals"]]


@pytest.mark.parametrize(
    ("at", "code", "origin"),
    [(120, "td-attributes", "refused"), (184, "mrconfigid", "simulated"), (128, "xfam", "simulated")],
)
def test_a_td_that_the_policy_refuses_is_refused_though_its_registers_are_equal(
    at: int, code: str, origin: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A debug TD (the first) is refused by the signature library, too."""
    body = bytearray(sim.body(VALUES, DATA))
    body[at] ^= 1
    (files / "quote.bin").write_bytes(sim.assemble(bytes(body)))
    words = ["inspect", "quote.bin", *SIMULATED, "--expect", "out/demo-cpu"]
    told = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert (told["origin"], told["equal"]) == (origin, True)
    assert code in [refusal["code"] for refusal in told["refusals"]]
    outcome = Outcome(capsys, *words)
    assert outcome.code == 8
    assert (", REFUSED by the policy, EQUAL to " in outcome.stdout) is (origin == "simulated")


def test_without_collateral_nothing_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "inspect", "quote.bin", "--expect", "out/demo-cpu")
    assert outcome.code == 8
    assert outcome.stdout.startswith("NOT PROVEN (no signature was checked), EQUAL to the build in out/demo-cpu")
    assert "  collateral-missing: " in outcome.stdout


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (REPORT, "TDREPORT"),
        (
            token({"tdx": {**{f"tdx_{name}": value.hex() for name, value in VALUES.items()},
                           "tdx_report_data": DATA.hex()}}),
            "register values, out of JSON, out of a JSON Web Token",
        ),
    ],
)  # fmt: skip
def test_values_that_no_quote_signs_are_not_proven(
    data: bytes, title: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "bare").write_bytes(data)
    outcome = Outcome(capsys, "inspect", "bare", *SIMULATED, "--expect", "out/demo-cpu", "--report-data", DATA.hex())
    assert outcome.code == 8
    assert outcome.stdout.startswith("NOT PROVEN (no signature was checked), ")
    assert f"bare, {title}" in outcome.stdout
    assert "as of" not in outcome.stdout
    told = json.loads(Outcome(capsys, "inspect", "bare", "--expect", "out/demo-cpu", "--json").stdout)
    assert told["equal"] is (data != REPORT)
    assert told["origin"] == "unproven"


def test_a_token_without_mrtd_says_what_was_not_compared(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "token").write_bytes(token({name: value.hex() for name, value in VALUES.items() if name != MRTD}))
    told = json.loads(Outcome(capsys, "inspect", "token", "--expect", "out/demo-cpu", "--json").stdout)
    assert (told["equal"], told["not_compared"]) == (True, [MRTD])
    assert "not compared, because one side has no value: mrtd" in told["notes"]


def test_every_wrapping_of_a_quote_is_judged_alike(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (files / "quote.bin").read_bytes()
    for name, wrapped in {
        "hex": data.hex().encode(),
        "base64": base64.b64encode(data),
        "json": json.dumps({"quote": data.hex()}).encode(),
    }.items():
        (files / name).write_bytes(wrapped)
        assert Outcome(capsys, "inspect", name, *SIMULATED, "--expect", "out/demo-cpu").code == 10, name


def test_a_document_or_bundle_brings_its_own_collateral(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = samples.document()
    bare = dataclasses.replace(document, collateral=None).encode()
    bundle = Bundle(bare, samples.NONCE, samples.SPKI, samples.NOW, {"tdx": sim.collateral()})
    (files / "doc.json").write_bytes(document.encode())
    (files / "bare.json").write_bytes(bare)
    words = ["--allow-simulated", "root.pem", "--expect", "out/demo-cpu"]
    assert Outcome(capsys, "inspect", "doc.json", *words).code == 10
    assert Outcome(capsys, "inspect", "bare.json", *words).code == 8
    assert Outcome(capsys, "inspect", "bare.json", *words, *SIMULATED[:2]).code == 10
    (files / "bundle.json").write_bytes(bundle.encode())
    assert Outcome(capsys, "inspect", "bundle.json", *words).code == 10


def test_registers_of_another_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "other.bin").write_bytes(sim.make_quote({**VALUES, RTMR2: bytes(48)}, DATA))
    (files / "values.json").write_bytes(canonical({name: value.hex() for name, value in VALUES.items()}))
    (files / "log").write_bytes(samples.boot_log(samples.extends(4 << 30)))
    for name, code, left in (
        ("quote.bin", 10, []),
        ("other.bin", 1, []),
        ("values.json", 10, []),
        ("out/demo-cpu/prediction.json", 10, []),
        ("log", 10, [MRTD, "rtmr3"]),
    ):
        words = ["inspect", "quote.bin", *SIMULATED, "--registers", name]
        assert Outcome(capsys, *words).code == code, name
        assert json.loads(Outcome(capsys, *words, "--json").stdout)["not_compared"] == left


@pytest.mark.parametrize("data", [QUOTE + b"more", QUOTE[:700], QUOTE[:-9]])
def test_a_malformed_quote_is_refused(data: bytes, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bad.bin").write_bytes(data)
    outcome = Outcome(capsys, "inspect", "bad.bin", "--collateral", str(INTEL_COLLATERAL), "--at", THEN)
    assert outcome.code == 8
    assert outcome.stdout.startswith("SIGNATURE REFUSED: bad.bin")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["log"], "it holds no register values of a guest"),
        (["quote.bin", "--packages"], "--packages is for an image, and quote.bin is a file"),
        (["demo-cpu", "--report-data", "00" * 64], "--report-data is for a file with a quote"),
        (["out/demo-cpu", "--expect", "out/demo-cpu"], "--expect is for a file with a quote"),
        (["quote.bin", "--expect", "out/demo-cpu", "--registers", "log"], "give --expect or --registers, not both"),
        (["quote.bin", "--report-data", "00" * 31], "--report-data: 31 bytes, expected 64, or 32"),
        (["quote.bin", "--report-data", "xx"], "--report-data: expected lower-case hex digits"),
        (["quote.bin", "--at", "now"], "--at now: expected a time"),
        (["quote.bin", "--registers", "old"], "has no register values"),
        (["registers", "--report-data", "00" * 64], "--report-data: registers has no report data"),
    ],
)
def test_what_makes_no_sense_is_usage(
    words: list[str], text: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "log").write_bytes(LOG)
    (files / "old").write_bytes(b"CCEL".ljust(56, b"\0"))
    (files / "registers").write_bytes(canonical({name: value.hex() for name, value in VALUES.items()}))
    outcome = Outcome(capsys, "inspect", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr


def test_a_prediction_of_another_tee_is_usage(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "log").write_bytes(b"")
    outcome = Outcome(capsys, "inspect", "quote.bin", "--registers", "log")
    assert outcome.code == 7
    assert "log is empty" in outcome.stderr


def test_the_words_of_verify_are_not_used() -> None:
    from privml.cli import inspect_file

    assert not [
        word for word in inspect_file._HEADLINES.values() for result in Result if word.lower() == result.value
    ]
