"""The policy file: what it may say, what no policy may, and what a verdict says of what it relaxed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
from json_schema import accepts
from sim_platforms import MODULE_SVN, Platform, level, with_module
from test_cli_main import Outcome, as_found, captured, place  # noqa: F401 - fixtures
from test_image_schemas import agreement

import privml
from privml.base.errors import UsageError
from privml.base.strictjson import canonical, loads, pretty
from privml.client.gate import Decision
from privml.sim.pki import Variation
from privml.verify import policyfield
from privml.verify.advice import ADVICE, explain
from privml.verify.check import CODES
from privml.verify.policy import Policy
from privml.verify.policyfile import FORMAT, MAX_FILE, decode, schema
from privml.verify.report import render
from privml.verify.tdx import TdxPolicy
from privml.verify.verdict import Outcome as Word
from privml.verify.verdict import Verdict

EXAMPLES = sorted((samples.REPOSITORY / "examples" / "policies").glob("*.toml"))
OUTDATED = Platform(Variation(tcb_info={"tcbLevels": [level("OutOfDate", "INTEL-SA-00001")]}))
ACCEPTS_OUTDATED = b'format = "privml-policy/v1"\n[tdx]\ntcb_statuses = ["UpToDate", "OutOfDate"]\n'

NEVER = {
    "simulated", "root", "quote-signature", "pck-chain", "collateral-role", "collateral-encoding",
    "collateral-missing", "collateral-platform", "collateral-expired", "collateral-future", "revoked",
    "report-signature", "snp-chain", "report-certificate", "revocation-list", "migration-agent", "launch",
    "qe-vendor", "mrsignerseam", "seam-attributes", "mrservicetd", "shapes", "unpinned", "mrtd", "rtmr0",
    "rtmr1", "rtmr2", "rtmr3", "agent-events", "nonce", "report-data", "tls-key", "variant",
    "channel-key", "channel-record", "release-key", "development", "purpose", "stage",
    "sample-evidence", "gpu-evidence", "gpu-count", "gpu-digest", "gpu-nonce",
    "gpu-sample",
    "gpu-simulated", "gpu-chain", "gpu-signature", "gpu-fwid", "gpu-duplicate", "gpu-measurements", "gpu-revoked",
    "gpu-collateral", "gpu-cc-off", "gpu-devtools", "gpu-topology",
    "trust-root", "index-signatures", "index-digest", "index-rollback", "statement-signatures", "statement-digest",
    "version-unknown", "version-revoked", "rebuilders", "demonstration",
    "not-logged", "witnesses", "ci-identity",
    "receipt-signature", "receipt-keys", "receipt-model", "receipt-nonce", "request-hash", "response-hash",
    "receipt-incomplete",
}  # fmt: skip
"""Codes that no policy file may relax, whatever fields are added."""


def whole() -> dict[str, Any]:
    """A policy file that names every field, with a value other than an empty list."""
    written: dict[str, Any] = {"format": FORMAT}
    for name, made in policyfield.settings(Policy).items():
        written[name] = made.form.write(policyfield.default_of(Policy, name))
    for name, (_, default) in policyfield.sections(Policy).items():
        fields = policyfield.settings(type(default))
        written[name] = {field: made.form.write(getattr(default, field)) for field, made in fields.items()}
    written["tdx"]["platforms"] = written["tdx"]["platform_instances"] = ["00" * 16]
    written["nvidia"]["devices"] = ["00" * 8]
    return written | {"tdx": written["tdx"] | {"mr_seams": ["11" * 48], "rejected_advisories": ["INTEL-SA-1"]}}


def simulated(data: bytes) -> Policy:
    return dataclasses.replace(decode(data, "p.toml"), allow_simulated=samples.ROOT)


def relaxed(verdict: Verdict) -> list[tuple[str, str]]:
    return [(refusal.code, refusal.got) for refusal in verdict.relaxed]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_policies(path: Path) -> None:
    assert decode(path.read_bytes(), path.name) != Policy()


def test_intels_modules_are_those_of_the_vectors() -> None:
    policy = decode((samples.REPOSITORY / "examples/policies/intel-modules.toml").read_bytes(), "p.toml")
    quote = (samples.VECTORS / "tdx_quote.bin").read_bytes()
    assert quote[64:112] in policy.tdx.mr_seams
    assert policy == policy.strict


def test_toml_and_json_say_the_same() -> None:
    as_json = canonical({"format": FORMAT, "tdx": {"tcb_statuses": ["UpToDate", "OutOfDate"]}})
    expected = Policy(tdx=TdxPolicy(tcb_statuses=frozenset({"UpToDate", "OutOfDate"})))
    assert decode(as_json, "p.json") == decode(ACCEPTS_OUTDATED, "p.toml") == expected


def test_a_file_without_fields_is_the_strict_policy() -> None:
    assert decode(b'format = "privml-policy/v1"', "p.toml") == Policy() == Policy().strict


WRONG = {
    "no format": ("", "expected the field format"),
    "another format": ('format = "privml-policy/v2"', "expected the field format"),
    "unknown field": ('x = 1\nformat = "privml-policy/v1"', "x: unknown field"),
    "unknown section": ('format = "privml-policy/v1"\n[sev]', "sev: unknown field"),
    "the purpose": ('purpose = "serve"\nformat = "privml-policy/v1"', "purpose: unknown field"),
    "a simulation": ('allow_simulated = "AA"\nformat = "privml-policy/v1"', "allow_simulated: unknown field"),
    "a key twice": ('format = "privml-policy/v1"\nformat = "privml-policy/v1"', "Cannot overwrite a value"),
    "a table twice": ('format = "privml-policy/v1"\n[tdx]\n[tdx]', "Cannot declare"),
    "no text": ("\udcff", "'utf-8' codec can't decode"),
    "no TOML": ("{", "Invalid statement"),
    "deep": ("x = " + "[" * 100_000, ""),
    "too long": ("#" * (MAX_FILE + 1), f"more than {MAX_FILE} bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_policy(name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(UsageError) as caught:
        decode(text.encode(errors="surrogateescape"), "p.toml")
    assert caught.value.message.startswith("p.toml: ")
    assert message in caught.value.message


@pytest.mark.parametrize("text", ['{"format": "privml-policy/v1", "format": "privml-policy/v1"}', "[]", "null", "{"])
def test_json_that_is_no_policy(text: str) -> None:
    with pytest.raises(UsageError, match=r"^p\.json: "):
        decode(text.encode(), "p.json")


def test_another_kind_of_file() -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in \.toml or \.json"):
        decode(b"", "policy.yaml")


# Values that no policy may have, in code or in a file.
FORBIDDEN: dict[str, list[Any]] = {
    "tcb_statuses": [["Revoked"], ["UpToDate", "Splendid"]],
    "module_statuses": [["Revoked"], ["ConfigurationNeeded"]],
    "qe_statuses": [["Revoked"]],
    "td_attributes": [
        "0100001000000000",  # debug
        "0200001000000000",  # a reserved bit of the debug group
        "0000003000000000",  # migratable
        "0000000000000000",  # no SEPT_VE_DISABLE
        "0000021000000000",  # extended service TD information
        "1000001000000000",  # profiling
    ],
    "min_tcb_evaluation_number": [-1],
    "max_collateral_age_days": [0, 3651],
    "min_tcb_date": ["2024-13-01", "2024", "13 November 2024", "2024-11-13\n"],
    "qe_vendor": ["00" * 16],
    "mr_signer_seam": ["11" * 48],
    "seam_attributes": ["11" * 8],
    "mr_service_td": ["11" * 48],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, each in FORBIDDEN.items() for value in each])
def test_what_no_policy_may_accept(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^p\.json: tdx\.{field}: "):
        decode(pretty({"format": FORMAT, "tdx": {field: value}}), "p.json")


@pytest.mark.parametrize("value", ["0000001000000080", "0000005000000000", "0000001800000000"])
def test_other_attributes_that_a_policy_may_name(value: str) -> None:
    assert (
        decode(pretty({"format": FORMAT, "tdx": {"td_attributes": value}}), "p.json").tdx.td_attributes.hex() == value
    )


def test_no_field_relaxes_what_no_policy_may() -> None:
    can = {code for _, made in policyfield.every(Policy) for code in made.relaxes}
    sets = {code for _, made in policyfield.every(Policy) for code in made.sets}
    assert can | sets <= set(CODES)
    assert not (can | sets) & NEVER
    assert can | sets | NEVER == set(CODES)


def test_the_schema_and_the_reader_agree() -> None:
    fits = schema()
    document = whole()
    assert accepts(fits, document, fits)
    assert decode(pretty(document), "p.json").tdx.mr_seams == frozenset({b"\x11" * 48})
    apart = agreement(document, fits, lambda data: decode(data, "p.json"))
    # Every field but the format is optional, so a missing one is right; nothing else is judged differently.
    assert apart == {}


def test_what_a_policy_relaxed_is_in_the_first_line_and_in_the_json() -> None:
    verdict = OUTDATED.verdict(simulated(ACCEPTS_OUTDATED))
    assert verdict.outcome is Word.ACCEPTED_SIMULATED
    first, *rest = render(verdict).splitlines()
    assert first.startswith(
        "ACCEPTED-SIMULATED (no hardware vouches for this), relaxed: tcb-status OutOfDate (INTEL-SA-00001): demo-cpu"
    )
    line = "  relaxed: tcb-status: got OutOfDate (INTEL-SA-00001), the default policy expects UpToDate"
    assert line in rest
    assert verdict.to_dict()["relaxed"] == [
        {"code": "tcb-status", "got": "OutOfDate (INTEL-SA-00001)", "expected": "UpToDate", "where": ""}
    ]


def test_the_proxy_says_what_was_relaxed() -> None:
    judgement = samples.judge(OUTDATED.document(), signature=OUTDATED.check(), policy=simulated(ACCEPTS_OUTDATED))
    said = Decision(0.0, judgement).message
    assert said.startswith("accepted-simulated, relaxed: tcb-status OutOfDate (INTEL-SA-00001): demo-cpu, against")


def test_genuine_hardware_is_accepted_with_what_was_relaxed() -> None:
    facts = samples.genuine(samples.signature_of(samples.document()))
    old = dataclasses.replace(facts, platform=dataclasses.replace(facts.platform, status="OutOfDate"))
    verdict = samples.judge(signature=old, policy=decode(ACCEPTS_OUTDATED, "p.toml")).verdict
    assert (verdict.outcome, verdict.exit_code) == (Word.ACCEPTED, 0)
    assert render(verdict).startswith("ACCEPTED, relaxed: tcb-status OutOfDate: demo-cpu (production), against")


def test_what_a_policy_would_relax_and_did_not_is_not_listed() -> None:
    assert relaxed(Platform().verdict(simulated(ACCEPTS_OUTDATED))) == []
    both = with_module((MODULE_SVN + 1, "UpToDate"), (2, "OutOfDate"))
    verdict = both.verdict(simulated(ACCEPTS_OUTDATED))
    assert [refusal.code for refusal in verdict.refusals] == ["tdx-module-status"]
    assert relaxed(verdict) == []


def test_a_refusal_is_not_softened_by_what_was_relaxed() -> None:
    policy = dataclasses.replace(decode(ACCEPTS_OUTDATED, "p.toml"), allow_simulated=None)
    verdict = OUTDATED.verdict(policy)
    assert render(verdict).startswith("REFUSED: demo-cpu")
    assert relaxed(verdict) == [("tcb-status", "OutOfDate (INTEL-SA-00001)")]


def test_tightening_is_no_relaxation() -> None:
    tight = Policy(allow_simulated=samples.ROOT, tdx=TdxPolicy(min_tcb_date="2026-01-01", max_root_crl_age_days=10))
    verdict = Platform().verdict(tight)
    assert (verdict.outcome, verdict.relaxed) == (Word.ACCEPTED_SIMULATED, ())


def test_without_its_relaxations_a_policy_is_as_tight_as_before() -> None:
    """No value that is stricter than the default may become looser."""
    tight = {
        "tcb_statuses": frozenset[str](),
        "min_tcb_evaluation_number": 19,
        "max_collateral_age_days": 7,
        "max_root_crl_age_days": 100,
        "xfams": frozenset({bytes.fromhex("e702060000000000")}),
        "mr_seams": frozenset({bytes(48)}),
    }
    policy = Policy(tdx=TdxPolicy(**tight))  # type: ignore[arg-type]
    assert policy.strict == policy
    given = Policy(allow_unused_runtime=True, tdx=TdxPolicy(min_tcb_evaluation_number=17, max_collateral_age_days=60))
    assert given.strict == Policy()


def old_document(place: Path) -> list[str]:  # noqa: F811
    """A document of an outdated platform, and the words that verify it."""
    words = captured(place)
    made = dataclasses.replace(samples.document(), collateral={"tdx": OUTDATED.collateral()})
    (place / "doc.json").write_bytes(made.encode())
    (place / "policy.toml").write_bytes(ACCEPTS_OUTDATED)
    return [*words, "--allow-simulated", "root.pem"]


def test_verify_takes_a_policy(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    words = old_document(place)
    assert Outcome(capsys, *words).code == 8
    accepted = Outcome(capsys, *words, "--policy", "policy.toml")
    assert accepted.code == 10
    assert ", relaxed: tcb-status OutOfDate (INTEL-SA-00001): " in accepted.stdout.splitlines()[0]
    as_json = Outcome(capsys, *words, "--policy", "policy.toml", "--json")
    assert [each["code"] for each in json.loads(as_json.stdout)["relaxed"]] == ["tcb-status"]
    refused = Outcome(capsys, *words, "--policy", "policy.toml", "--no-relaxations")
    assert refused.code == 8
    assert refused.stdout.startswith("REFUSED: ")
    assert "  tcb-status: " in refused.stdout
    (place / "policy.toml").write_text("x = 1")
    wrong = Outcome(capsys, *words, "--policy", "policy.toml")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "policy.toml: expected the field format" in wrong.stderr


def test_no_relaxations_keeps_what_tightens(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    words = [*captured(place), "--allow-simulated", "root.pem", "--policy", "policy.toml", "--no-relaxations"]
    (place / "policy.toml").write_bytes(ACCEPTS_OUTDATED)
    assert Outcome(capsys, *words).code == 10
    (place / "policy.toml").write_bytes(ACCEPTS_OUTDATED + b'min_tcb_date = "2030-01-01"\n')
    refused = Outcome(capsys, *words)
    assert refused.code == 8
    assert "  tcb-date: " in refused.stdout


def test_the_library_takes_a_policy(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("privml.client.calls.time.time", lambda: samples.NOW)
    old_document(place)
    given: dict[str, Any] = {
        "nonce": samples.NONCE, "tls_spki_sha256": samples.SPKI, "allow_simulated": "root.pem",
    }  # fmt: skip
    assert privml.verify("doc.json", "out/demo-cpu", **given).keys is None
    for policy in ("policy.toml", place / "policy.toml", decode(ACCEPTS_OUTDATED, "p.toml")):
        judgement = privml.verify("doc.json", "out/demo-cpu", policy=policy, **given)
        assert judgement.keys is not None
        assert relaxed(judgement.verdict) == [("tcb-status", "OutOfDate (INTEL-SA-00001)")]
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read"):
        privml.verify("doc.json", "out/demo-cpu", policy="nowhere.toml", **given)


def test_every_code_has_advice() -> None:
    assert set(ADVICE) == set(CODES)


def test_explain_says_which_field_can_relax_a_code() -> None:
    first, advice, field = explain("tcb-status")
    assert first == "tcb-status: the platform's TCB status is not accepted"
    assert advice.startswith("  what to do: The operator must update")
    assert field.startswith("  policy field tdx.tcb_statuses can relax it. ")
    assert len(explain("collateral-age")) == 5
    for code in NEVER:
        assert explain(code)[2:] == ("  no policy can relax it",)
    assert explain("tcb-date")[2].startswith("  policy field tdx.min_tcb_date sets what is expected. The earliest")
    with pytest.raises(UsageError, match="no refusal code `tcb-statu`") as caught:
        explain("tcb-statu")
    assert caught.value.hint == "did you mean `tcb-status`?"


def test_explain_needs_neither_a_document_nor_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "verify", "--explain", "runtime-unused")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "policy field allow_unused_runtime can relax it" in outcome.stdout
    unknown = Outcome(capsys, "verify", "--explain", "x")
    assert (unknown.code, unknown.stdout) == (2, "")


def test_the_guide_has_the_table_of_the_checks() -> None:
    from tests import refusals

    text = refusals.GUIDE.read_text()
    assert refusals.renewed(text) == text, "renew it: .venv/bin/python -m tests.refusals"
    assert refusals.table() in text


def test_a_policy_read_back_is_the_same() -> None:
    document = loads(pretty(whole()))
    assert decode(pretty(document), "p.json") == decode(canonical(document), "p.json")
