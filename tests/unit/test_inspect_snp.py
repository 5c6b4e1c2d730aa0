"""`inspect FILE` of an SEV-SNP report: every field, and whether AMD vouches for it; never accepted."""

from __future__ import annotations

import dataclasses
import json
import ssl
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
import snp_samples as snp
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from tests.published import read

from privml.base.strictjson import b64, canonical, pretty
from privml.client import kdsfiles
from privml.evidence.bundle import Bundle
from privml.sim import snpreport as sim
from privml.statement.launch import HASHED, OPEN

TRUSTEE = "attestation/confidential-containers_trustee/snp"
V2 = bytes.fromhex(read("attestation/virtee_sev/report_milan.hex").decode())
V3 = read(f"{TRUSTEE}/test-vlek-report.bin")
HCL = read(f"{TRUSTEE}/hcl-report.bin")
VCEK = read("attestation/virtee_sev/vcek_milan.der")
MILAN = read("attestation/google_go-sev-guest/ask_ark_milan.pem")
DATA = bytes(range(64))
REPORT = sim.make_report(snp.DIGEST, DATA)
POLICY = """format = "privml-policy/v1"
[snp]
allow_unmeasured_acpi = true
min_tcb = [{product = "Genoa", fmc = 0, bl = 10, tee = 0, snp = 23, ucode = 84}]
"""
MILANS = """format = "privml-policy/v1"
[snp]
products = ["Milan"]
min_report_version = 2
platform_must = []
require_revocation = false
min_tcb = [{product = "Milan", fmc = 0, bl = 3, tee = 0, snp = 8, ucode = 115}]
"""
AMD = ["--collateral", "kds", "--allow-simulated", "ark.pem"]
REAL = ["--collateral", "vcek.der", "--collateral", "chain.pem"]
EXPECT = ["--expect", "out/demo-cpu"]


@pytest.fixture(autouse=True)
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A simulated report of the made-up image's launch, what judges it, and the same of a real one."""
    monkeypatch.setattr("privml.cli.inspect_file.time.time", lambda: samples.NOW)
    monkeypatch.setattr("privml.client.collateral.cache_directory", lambda: place / "cache")
    monkeypatch.setattr(samples, "PREDICATE", snp.PREDICATE)
    image(place)
    leaf, issuer, root = sim.certificates()
    kds = {
        "vcek": leaf,
        "cert_chain": "".join(map(ssl.DER_cert_to_PEM_cert, (issuer, root))).encode(),
        "crl": bytes.fromhex(sim.collateral()["crl"]),
    }
    (place / "kds").mkdir()
    for name, data in kds.items():
        (place / "kds" / name).write_bytes(data)
    others = {"ark.pem": root, "report.bin": REPORT, "real.bin": V2, "vcek.der": VCEK, "chain.pem": MILAN}
    for name, data in others.items():
        (place / name).write_bytes(data)
    (place / "policy.toml").write_text(POLICY)
    (place / "milan.toml").write_text(MILANS)
    return place


def inspected(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    outcome = Outcome(capsys, "inspect", *words, "--json")
    return outcome.code, json.loads(outcome.stdout)


def codes(told: dict[str, Any]) -> set[str]:
    return {each["code"] for each in told["refusals"]}


def test_a_simulated_report_of_the_image_is_equal(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report.bin", *AMD, *EXPECT, "--report-data", DATA.hex(), "--policy", "policy.toml"]
    outcome = Outcome(capsys, "inspect", *words)
    assert (outcome.code, outcome.stderr) == (10, "")
    lines = outcome.stdout.splitlines()
    assert lines.pop(3) == (
        "  relaxed: acpi-unmeasured: got ACPI tables of the host, the default policy expects a policy that accepts "
        "them by name"
    )
    assert lines[0] == (
        "SIMULATED (no hardware vouches for this), EQUAL to the build in out/demo-cpu: report.bin, attestation "
        "report of an SEV-SNP guest, version 3, of a Genoa, stepping 1; proves no key and no freshness"
    )
    assert lines[2:5] == [
        "  shape: qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10",
        "  launch: equal",
        "  report data: equal",
    ]
    assert "signature was not checked" not in outcome.stdout
    code, told = inspected(capsys, *words)
    assert (code, told["origin"], told["registers"]) == (10, "simulated", {"launch": snp.DIGEST.hex()})
    assert (told["proves_key"], told["proves_freshness"], told["not_compared"]) == (False, False, [])


def test_a_real_report_is_genuine_and_judged_by_the_caller_s_policy(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = inspected(capsys, "real.bin", *REAL)
    assert (code, told["origin"]) == (8, "genuine")
    wanted = {"report-version", "product", "reported-tcb", "platform-info", "revocation-missing"}
    assert codes(told) == wanted
    outcome = Outcome(capsys, "inspect", "real.bin", *REAL, "--policy", "milan.toml")
    assert outcome.code == 0
    assert outcome.stdout.startswith(
        "GENUINE: real.bin, attestation report of an SEV-SNP guest, version 2; proves no"
    )
    assert "note: revocation: no list was given" in outcome.stdout


def test_every_field_of_a_report_is_shown(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    (files / "v3.bin").write_bytes(V3)
    _, told = inspected(capsys, "v3.bin")
    names = {
        "report data", "policy", "least abi", "vmpl", "guest svn", "report id", "platform", "reported tcb",
        "current tcb", "committed tcb", "launch tcb", "firmware", "signing key", "chip id",
    }  # fmt: skip
    assert names <= set(told["facts"])
    assert told["facts"]["signing key"] == "VLEK"
    changes = {0xC0: b"\1", 0xE0: b"\2", 0x110: b"\3", 0x10: b"\4", 0x20: b"\5", 0x160: b"\6", 0x48: b"\1", 0: b"\5"}
    (files / "all.bin").write_bytes(sim.make_report(snp.DIGEST, DATA, {**changes, 0x1F8: b"\7", 0x200: b"\x08"}))
    _, told = inspected(capsys, "all.bin")
    more = {"host data", "id key", "author key", "family id", "image id", "migration agent"}
    assert names | more | {"launch mitigations", "current mitigations"} == set(told["facts"])
    assert told["facts"]["signing key"] == "VCEK, the guest's owner has an author key"


def test_what_the_policy_does_not_accept_of_the_expected_launch_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "strict.toml").write_text(POLICY.replace("allow_unmeasured_acpi = true\n", ""))
    (files / "hashed.toml").write_text(POLICY.replace("[snp]", '[snp]\nboots = ["bound", "hashed"]'))
    prediction = ("--registers", "out/demo-cpu/prediction.json")
    for where in (EXPECT, prediction):
        code, told = inspected(capsys, "report.bin", *AMD, *where, "--policy", "strict.toml")
        assert (code, codes(told), told["equal"], told["relaxed"]) == (8, {"acpi-unmeasured"}, True, [])
        code, told = inspected(capsys, "report.bin", *AMD, *where, "--policy", "policy.toml")
        assert (code, codes(told), [one["code"] for one in told["relaxed"]]) == (10, set(), ["acpi-unmeasured"])
    # Without an image, nothing is known of the launch.
    code, told = inspected(capsys, "report.bin", *AMD, "--policy", "strict.toml")
    assert (code, codes(told)) == (10, set())
    for boot in (HASHED, OPEN):
        hashed = dataclasses.replace(snp.PREDICATE, launches=(snp.launch(boot=boot),))
        monkeypatch.setattr(samples, "PREDICATE", hashed)
        image(files)
        code, told = inspected(capsys, "report.bin", *AMD, *EXPECT, "--policy", "policy.toml")
        assert (code, codes(told), told["equal"]) == (8, {"snp-boot-unbound"}, True)
        code, told = inspected(capsys, "report.bin", *AMD, *EXPECT, "--policy", "hashed.toml")
        assert (code, codes(told)) == ((10, set()) if boot == HASHED else (8, {"snp-boot-unbound"}))


@pytest.mark.parametrize("name", ["launch", "report data"])
def test_one_other_value_differs(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = sim.make_report(b"\1" * 48, DATA) if name == "launch" else sim.make_report(snp.DIGEST, bytes(64))
    (files / "report.bin").write_bytes(changed)
    words = ["report.bin", *AMD, *EXPECT, "--report-data", DATA.hex(), "--policy", "policy.toml"]
    code, told = inspected(capsys, *words)
    assert (code, told["origin"]) == (1, "simulated")
    assert [value["name"] for value in told["values"] if not value["equal"]] == [name]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({0x08: (0xB0000).to_bytes(8, "little")}, "snp-policy"),
        ({0x30: b"\1"}, "vmpl"),
        ({0xC0: b"\1"}, "host-data"),
        ({0x40: b"\1"}, "platform-info"),
        ({0x180: b"\x09", 0x38: b"\x09"}, "report-certificate"),
        ({0x1A0: b"\xff"}, "report-certificate"),
        ({0x48: b"\4"}, "report-certificate"),
        ({0x188: b"\x19\0"}, "report-certificate"),
    ],
)
def test_what_the_policy_or_the_certificate_does_not_allow_is_refused(
    changes: dict[int, bytes], code: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "report.bin").write_bytes(sim.make_report(snp.DIGEST, DATA, changes))
    status, told = inspected(capsys, "report.bin", *AMD, *EXPECT, "--policy", "policy.toml")
    assert (status, code in codes(told), told["equal"]) == (8, True, True)


def test_no_changed_byte_is_genuine(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(0, len(V2), 97):
        bent = bytearray(V2)
        bent[at] ^= 1
        (files / "real.bin").write_bytes(bent)
        outcome = Outcome(capsys, "inspect", "real.bin", *REAL, "--policy", "milan.toml")
        assert outcome.code in (7, 8, 9), at
        assert "GENUINE" not in outcome.stdout, at


def test_without_collateral_nothing_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = inspected(capsys, "real.bin", "--policy", "milan.toml")
    assert (code, told["origin"]) == (8, "unproven")
    assert codes(told) == {"collateral-missing"}


def test_what_is_cached_is_used_but_not_for_another_time(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = kdsfiles.read((files / "kds",))
    assert found.keep(files / "cache" / "snp", now=samples.NOW, simulated_root=snp.ROOT)
    words = ("report.bin", "--allow-simulated", "ark.pem", "--policy", "policy.toml")
    assert inspected(capsys, *words)[0] == 10
    then = inspected(capsys, *words, "--at", "2026-06-01T00:00:00Z")
    assert (then[0], then[1]["origin"]) == (8, "unproven")


def test_a_simulation_must_be_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = inspected(capsys, "report.bin", *AMD[:2], "--policy", "policy.toml")
    assert (code, told["origin"], codes(told)) == (8, "refused", {"simulated"})


def test_a_self_made_certificate_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "vcek.der").write_bytes(read(f"{TRUSTEE}/test-vcek-invalid-legacy.der"))
    outcome = Outcome(capsys, "inspect", "real.bin", *REAL)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "no chain of a VCEK or VLEK, its issuer and AMD's root is in it" in outcome.stderr


def test_every_wrapping_of_a_report_is_judged_alike(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in {
        "hex": V2.hex().encode(),
        "json": canonical({"report": b64(V2)}),
        "base64": b64(V2).encode(),
    }.items():
        (files / name).write_bytes(data)
        assert inspected(capsys, name, *REAL, "--policy", "milan.toml")[1]["origin"] == "genuine", name


def test_a_paravisor_s_report_is_judged_and_says_what_it_measures(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "hcl.bin").write_bytes(HCL)
    (files / "azure.pem").write_bytes(read(f"{TRUSTEE}/vcek.pem"))
    _, told = inspected(capsys, "hcl.bin", "--collateral", "azure.pem")
    assert told["origin"] == "genuine"
    assert any("it measures the paravisor" in note for note in told["notes"])


def test_a_document_or_bundle_brings_its_own_certificates(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = snp.document()
    (files / "doc.json").write_bytes(made.encode())
    bundle = Bundle(made.encode(), bytes(32), bytes(32), samples.NOW)
    (files / "bundle.json").write_bytes(bundle.encode())
    for name in ("doc.json", "bundle.json"):
        code, told = inspected(capsys, name, "--allow-simulated", "ark.pem", "--policy", "policy.toml", *EXPECT)
        assert (code, told["origin"], told["kind"]) == (10, "simulated", "snp-report")
    (files / "bare.json").write_bytes(dataclasses.replace(made, certificates=(), collateral=None).encode())
    assert inspected(capsys, "bare.json", *AMD, "--policy", "policy.toml")[0] == 10
    assert inspected(capsys, "bare.json", "--policy", "policy.toml")[1]["origin"] == "unproven"


def test_registers_of_another_report_or_a_prediction(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("report.bin", *AMD, "--policy", "policy.toml", "--registers")
    assert inspected(capsys, *words, "report.bin")[0] == 10
    assert inspected(capsys, *words, "real.bin")[0] == 1
    assert inspected(capsys, *words, "out/demo-cpu/prediction.json")[0] == 10


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["report.bin", "--collateral", "ark.pem"], "no chain of a VCEK or VLEK"),
        (["report.bin", "--collateral", "policy.toml"], "neither certificates nor a revocation list"),
        (["quote.bin", "--collateral", "kds"], "expected one file with the nine fields"),
        (
            ["quote.bin", "--collateral", "ark.pem", "--collateral", "ark.pem"],
            "expected one file with the nine fields",
        ),
        (["demo-cpu", "--policy", "policy.toml"], "--policy is for a file with a quote"),
    ],
)
def test_what_makes_no_sense_is_said(
    words: list[str], text: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "quote.bin").write_bytes(samples.document().evidence)
    outcome = Outcome(capsys, "inspect", *words)
    assert (outcome.code in (2, 9), outcome.stdout) == (True, "")
    assert text in outcome.stderr


def test_a_prediction_of_another_tee_is_usage(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_td = dataclasses.replace(snp.PREDICATE, launches=snp.PREDICATE.launches[:1])
    (files / "td.json").write_bytes(pretty(only_td.to_dict()))
    outcome = Outcome(capsys, "inspect", "report.bin", *AMD, "--registers", "td.json")
    assert (outcome.code, "predicts no launch of an SEV-SNP guest" in outcome.stderr) == (2, True)


def test_verify_says_that_a_report_is_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "verify", "report.bin", *EXPECT)
    assert outcome.code == 9
    assert "`privml-build inspect report.bin` judges its signature" in outcome.stderr
