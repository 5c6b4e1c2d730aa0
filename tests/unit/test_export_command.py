"""`export`: a verified version in the forms of other verifiers, read back as those do, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attestation_samples as samples
import protobuf_tables
import pytest
from google.protobuf import text_format
from protobuf_tables import BOOL, BYTES, UINT32
from published_fake import DAY, NAME, NOW, Fake, published
from regopy import Interpreter
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures
from test_client_trust import put

from privml.base.errors import MeasurementError, Refused, UsageError
from privml.client import exports
from privml.client.exports import TARGETS
from privml.client.exports import TdxExport as Export
from privml.events.registers import RTMR3, RTMRS, ZERO
from privml.statement.exceptions import DeclaredException
from privml.statement.index import State
from privml.statement.launch import Accepted, FilledBy
from privml.statement.predicate import Predicate
from privml.verify.anchor import Attested, Expected, Logged, Published
from privml.verify.policy import Policy
from privml.verify.publication import PublicationPolicy
from privml.verify.tdx import TdxPolicy

LAUNCHES = samples.PREDICATE.launches
ONE = "2 vcpus, 2048 MiB"
ROOT = "ab" * 32


def anchor(**changes: Any) -> Published:
    made = Published(NAME, "1.1", 2, State.CURRENT, "", None, 1, ("aa" * 32,), 1, 3, NOW, {"timestamp": NOW + DAY})
    return dataclasses.replace(made, **changes)


def exported(predicate: Predicate = samples.PREDICATE, policy: Policy | None = None, **changes: Any) -> Export:
    return exports.accepted(Expected(predicate, anchor(**changes)), ROOT, policy or Policy())


def text(form: str, export: Export | None = None) -> str:
    return TARGETS[form].text(export or exported())


# -- Trustee's policy, as its attestation service evaluates it -------------------------------------------------------


def claims(launch: int = 0, **changes: Any) -> dict[str, Any]:
    """Trustee's claims of an honest quote; ``changes`` are of the quote's body."""
    values = {f"rtmr_{n}": LAUNCHES[launch].accepted(name)[0].hex() for n, name in enumerate(RTMRS)}
    zero = "00" * 48
    body = {
        "mr_td": LAUNCHES[launch].accepted("mrtd")[0].hex(),
        **values,
        "td_attributes": "0000001000000000",
        "xfam": "e702060000000000",
        "mr_config_id": zero,
        "mr_owner": zero,
        "mr_owner_config": zero,
        "mrsigner_seam": zero,
        "seam_attributes": "0000000000000000",
        "mr_seam": "5b" * 48,
        **changes,
    }
    header = {"tee_type": "81000000", "vendor_id": "939a7233f79c4ca9940a0db3957f0607"}
    return {"tcb_status": "UpToDate", "collateral_expiration_status": "0", "quote": {"header": header, "body": body}}


def judged(policy: str, tdx: dict[str, Any] | None) -> tuple[int, int, int]:
    """Executables, hardware and configuration, by the rules and by the claims made of them."""
    rego = Interpreter()
    rego.add_module("policy", policy)
    rego.set_input({} if tdx is None else {"tdx": tdx})
    whole = json.loads(str(rego.query("data.policy.trust_claims")))["expressions"][0]
    names = ("executables", "hardware", "configuration")
    for name in names:
        [value] = json.loads(str(rego.query(f"data.policy.{name}")))["expressions"]
        assert value == whole[name]
    assert set(whole) == {*names, *exports._OTHERS}
    return tuple(whole[name] for name in names)  # type: ignore[return-value]


NOTHING = (33, 97, 36)


@pytest.mark.parametrize("launch", range(len(LAUNCHES)))
@pytest.mark.parametrize("mrtd", [0, 1])
def test_trustees_policy_accepts_each_size_whole(launch: int, mrtd: int) -> None:
    honest = claims(launch, mr_td=LAUNCHES[launch].accepted("mrtd")[mrtd].hex(), xfam="e71a060000000000")
    assert judged(text("trustee-policy"), honest) == (3, 2, 2)


@pytest.mark.parametrize("name", ["mr_td", *(f"rtmr_{n}" for n in range(4))])
def test_trustees_policy_refuses_any_other_register(name: str) -> None:
    assert judged(text("trustee-policy"), claims(**{name: "00" * 48})) == NOTHING


def test_trustees_policy_refuses_registers_of_two_sizes() -> None:
    other = samples.with_values(dataclasses.replace(LAUNCHES[1], events=()), "rtmr1", b"\3" * 48)
    policy = text("trustee-policy", exported(dataclasses.replace(samples.PREDICATE, launches=(LAUNCHES[0], other))))
    assert judged(policy, claims(1, rtmr_1="03" * 48)) == (3, 2, 2)
    assert judged(policy, claims(0, rtmr_1="03" * 48)) == NOTHING
    assert judged(policy, claims(1)) == NOTHING


def test_trustees_policy_of_one_size_refuses_the_other() -> None:
    only = text("trustee-policy", exported().only(ONE))
    assert (judged(only, claims(0)), judged(only, claims(1)), judged(only, None)) == ((3, 2, 2), NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"td_attributes": "0100001000000000"}, (3, 2, 36)),
        ({"xfam": "0300000000000000"}, (3, 2, 36)),
        ({"mr_owner": "01" * 48}, (3, 2, 36)),
        ({"mrsigner_seam": "01" * 48}, (3, 2, 36)),
    ],
)
def test_trustees_policy_says_which_claim_fails(change: dict[str, str], expected: tuple[int, ...]) -> None:
    assert judged(text("trustee-policy"), claims(**change)) == expected


@pytest.mark.parametrize("change", [{"tcb_status": "OutOfDate"}, {"collateral_expiration_status": "1"}])
def test_trustees_policy_compares_the_platforms_status(change: dict[str, str]) -> None:
    assert judged(text("trustee-policy"), claims() | change) == (3, 97, 2)


def test_a_callers_policy_is_in_trustees_policy() -> None:
    mine = Policy(tdx=TdxPolicy(mr_seams=frozenset({b"\1" * 48}), tcb_statuses=frozenset({"UpToDate", "OutOfDate"})))
    policy = text("trustee-policy", exported(policy=mine))
    assert judged(policy, claims()) == (3, 2, 36)
    assert judged(policy, claims(mr_seam="01" * 48) | {"tcb_status": "OutOfDate"}) == (3, 2, 2)


# -- Trustee's reference values --------------------------------------------------------------------------------------


def payload(export: Export | None = None) -> dict[str, Any]:
    message = json.loads(text("trustee", export))
    assert (message["version"], message["type"]) == ("0.1.0", "sample")
    found: dict[str, Any] = json.loads(base64.b64decode(message["payload"], validate=True))
    return found


def test_trustees_reference_values_are_lists_by_its_names() -> None:
    values = payload()
    assert set(values) == {"mr_td", "rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3", "xfam", "tdvfkernel"}
    assert values["mr_td"] == [value.hex() for value in LAUNCHES[0].accepted("mrtd")]
    assert values["rtmr_0"] == [launch.accepted("rtmr0")[0].hex() for launch in LAUNCHES]
    assert values["rtmr_1"] == [LAUNCHES[0].accepted("rtmr1")[0].hex()]
    assert values["tdvfkernel"] == LAUNCHES[0].of("rtmr1")[0].digest.hex()
    assert payload(exported().only(ONE))["rtmr_0"] == [LAUNCHES[0].accepted("rtmr0")[0].hex()]


def test_an_event_that_is_not_the_same_on_all_sizes_is_left_out() -> None:
    other = dataclasses.replace(
        LAUNCHES[1], events=(dataclasses.replace(LAUNCHES[1].of("rtmr1")[0], digest=b"\7" * 48),)
    )
    predicate = dataclasses.replace(samples.PREDICATE, launches=(LAUNCHES[0], other))
    assert "tdvfkernel" not in payload(exported(predicate))


# -- go-tdx-guest's configuration, by protobuf's own parser ----------------------------------------------------------

# The fields of its proto/checkconfig.proto that have had these numbers and names in each of its releases.
MESSAGES: dict[str, list[tuple[str, int, int | str, bool]]] = {
    "Config": [("policy", 1, "Policy", False), ("root_of_trust", 2, "RootOfTrust", False)],
    "Policy": [("header_policy", 1, "HeaderPolicy", False), ("td_quote_body_policy", 2, "TDQuoteBodyPolicy", False)],
    "HeaderPolicy": [
        ("minimum_qe_svn", 1, UINT32, False), ("minimum_pce_svn", 2, UINT32, False),
        ("qe_vendor_id", 3, BYTES, False),
    ],
    "TDQuoteBodyPolicy": [
        ("minimum_tee_tcb_svn", 1, BYTES, False), ("mr_seam", 2, BYTES, False), ("td_attributes", 3, BYTES, False),
        ("xfam", 4, BYTES, False), ("mr_td", 5, BYTES, False), ("mr_config_id", 6, BYTES, False),
        ("mr_owner", 7, BYTES, False), ("mr_owner_config", 8, BYTES, False), ("rtmrs", 9, BYTES, True),
        ("report_data", 10, BYTES, False), ("any_mr_td", 11, BYTES, True),
    ],
    "RootOfTrust": [("check_crl", 3, BOOL, False), ("get_collateral", 4, BOOL, False)],
}  # fmt: skip


def config() -> Any:
    """An empty message of the tool's configuration."""
    return protobuf_tables.empty("checkconfig", "Config", MESSAGES)


def parsed(export: Export) -> Any:
    return text_format.Parse(text("go-tdx-guest", export), config())


def test_go_tdx_guests_configuration_parses_and_has_every_value() -> None:
    made = parsed(exported().only(ONE))
    body = made.policy.td_quote_body_policy
    assert tuple(body.any_mr_td) == LAUNCHES[0].accepted("mrtd")
    assert list(body.rtmrs) == [LAUNCHES[0].accepted(name)[0] for name in RTMRS]
    assert body.td_attributes == TdxPolicy().td_attributes
    assert (body.mr_config_id, body.mr_owner, body.mr_owner_config) == (ZERO, ZERO, ZERO)
    assert made.policy.header_policy.qe_vendor_id == TdxPolicy().qe_vendor
    assert (body.xfam, body.mr_seam, body.report_data, body.minimum_tee_tcb_svn) == (b"", b"", b"", b"")
    assert made.root_of_trust.check_crl and made.root_of_trust.get_collateral


def test_what_a_callers_policy_names_alone_is_in_go_tdx_guests_configuration() -> None:
    tdx = TdxPolicy(
        xfams=frozenset({bytes.fromhex("e702060000000000")}),
        mr_seams=frozenset({b"\2" * 48}),
        min_tee_tcb_svn=b"\5" + bytes(15),
    )
    body = parsed(exported(policy=Policy(tdx=tdx)).only(ONE)).policy.td_quote_body_policy
    assert body.xfam == bytes.fromhex("e702060000000000")
    assert (body.mr_seam, body.minimum_tee_tcb_svn) == (b"\2" * 48, b"\5" + bytes(15))


# -- every format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", TARGETS)
def test_the_head_says_where_values_are_from_and_what_is_not_checked(form: str) -> None:
    export = exported().only(ONE)
    whole = text(form, export)
    lines = json.loads(whole)["about"] if form == "trustee" else [
        line.removeprefix("# ") for line in whole.splitlines()[: whole.splitlines().index("")]
    ]  # fmt: skip
    assert lines[0].startswith(f"{TARGETS[form].title}: {NAME} version 1.1 (serial 2), signed by 1 of 3 publishers (")
    assert ROOT in lines[1]
    assert any("2026-11-19T" in line for line in lines)
    for said in TARGETS[form].unchecked:
        assert f"- {said}" in lines
    assert lines[-1] == f"How such a file was tried: {TARGETS[form].tried}"


def unpinned(register: str, value: Any) -> Predicate:
    first = LAUNCHES[0]
    changed = dataclasses.replace(first, registers={**first.registers, register: value})
    return dataclasses.replace(samples.PREDICATE, launches=(changed, *LAUNCHES[1:]))


def test_a_register_without_a_value_is_no_export() -> None:
    with pytest.raises(MeasurementError, match=r"RTMR0 on .* has 0 values"):
        exported(unpinned("rtmr0", FilledBy("somebody")))
    with pytest.raises(MeasurementError, match="has no prediction for a TD"):
        exported(dataclasses.replace(samples.PREDICATE, launches=()))
    accepted = LAUNCHES[0].registers["rtmr1"]
    assert isinstance(accepted, Accepted)
    with pytest.raises(MeasurementError, match=r"RTMR1 on .* has 2 values"):
        exported(unpinned("rtmr1", Accepted((ZERO, b"\1" * 48), accepted.evidence)))


REFUSED: list[tuple[str, Predicate, dict[str, Any]]] = [
    ("index-expired", samples.PREDICATE, {"expiries": {"timestamp": NOW}}),
    ("version-revoked", samples.PREDICATE, {"state": State.REVOKED, "reason": "a hole"}),
    ("version-below-minimum", samples.PREDICATE, {"minimum_serial": 3}),
    ("rebuilders", samples.PREDICATE, {"rebuilders_asked": 1}),
    ("not-logged", samples.PREDICATE, {"log": Logged("no proof")}),
    ("ci-identity", samples.PREDICATE, {"ci": Attested("owner/name", "refs/heads/main", objection="nothing")}),
    ("witnesses", samples.PREDICATE, {"log": Logged("", "example.org/log", 0, 1)}),
    ("variant", dataclasses.replace(samples.PREDICATE, variant="development"), {}),
    ("exceptions", dataclasses.replace(samples.PREDICATE, exceptions=(DeclaredException("a", "b", "c"),)), {}),
    ("runtime-unused", unpinned(RTMR3, Accepted((ZERO,), LAUNCHES[0].evidence()[RTMR3])), {}),
]


@pytest.mark.parametrize(("code", "predicate", "changes"), REFUSED, ids=[code for code, _, _ in REFUSED])
def test_what_verify_refuses_is_not_exported(code: str, predicate: Predicate, changes: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=f"{NAME} 1.1 is not exported: {code}: got "):
        exported(predicate, **changes)


def test_a_policy_can_accept_what_is_refused_by_default() -> None:
    relaxed = Policy(
        exceptions=frozenset({"a:b"}), allow_unused_runtime=True, published=PublicationPolicy(expired_days=2)
    )
    for code, predicate, changes in REFUSED:
        if code in ("index-expired", "exceptions", "runtime-unused"):
            assert exported(predicate, relaxed, **changes).values
    with pytest.raises(Refused, match="version-below-minimum"):
        exported(policy=Policy(published=PublicationPolicy(minimum_serial=3)))


def test_a_size_is_named_whole_or_without_its_platform() -> None:
    for word in (ONE, LAUNCHES[0].label):
        assert [each.shape for each in exported().only(word).values] == [LAUNCHES[0].label]
    for word in ("MiB", "3 vcpus, 2048 MiB", ""):
        with pytest.raises(UsageError, match="expected one of the 2 sizes"):
            exported().only(word)


# -- the verb --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setattr("privml.cli.export.time.time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "state").mkdir()
    put(published(), place / "measurements")
    return place


def run(capsys: pytest.CaptureFixture[str], form: str, *words: str, wanted: str = f"{NAME}@1.1") -> Outcome:
    return Outcome(capsys, "export", wanted, "--format", form, "--trust", "measurements/root.json", *words)


@pytest.mark.parametrize("form", TARGETS)
def test_the_verb_writes_each_format(here: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    printed = run(capsys, form, "--shape", ONE)
    assert (printed.code, printed.stderr) == (0, "")
    root = hashlib.sha256(Path("measurements/root.json").read_bytes()).hexdigest()
    assert f"Verified under the root with SHA-256 {root}" in printed.stdout
    written = run(capsys, form, "--shape", ONE, "-o", "file")
    assert written.stdout == "file\n"
    assert Path("file").read_text().expandtabs() == printed.stdout


def test_a_format_of_one_size_asks_for_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(capsys, "go-tdx-guest")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "--shape is missing: a file holds one machine size, and this version has 2" in outcome.stderr
    assert LAUNCHES[1].label in outcome.stderr


def revoke(fake: Fake) -> None:
    fake.set_state("1.1", State.REVOKED, "a hole")


def alter(fake: Fake) -> None:
    path = f"{NAME}/1.1/release.json"
    fake.files[path] = fake.files[path].replace(b'"serial":2', b'"serial":3')


@pytest.mark.parametrize(("change", "said"), [(revoke, "version-revoked"), (alter, "statement-digest")])
def test_what_the_root_does_not_vouch_for_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Fake], None], said: str
) -> None:
    fake = published()
    change(fake)
    put(fake, here / "measurements")
    outcome = run(capsys, "trustee", "-o", "file")
    assert (outcome.code, outcome.stdout) == (8, "")
    assert said in outcome.stderr
    assert not Path("file").exists()


def test_wrong_names_and_versions_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted, code, said in (
        (NAME, 2, "expected NAME@VERSION"),
        (f"{NAME}@9", 8, "version-unknown"),
        ("other@1.1", 8, "version-unknown"),
    ):
        outcome = run(capsys, "trustee", wanted=wanted)
        assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr


def test_the_callers_policy_is_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("policy.toml").write_text('format = "privml-policy/v1"\n[published]\nminimum_serial = 3\n')
    assert "version-below-minimum" in run(capsys, "trustee", "--policy", "policy.toml").stderr
    Path("policy.toml").write_text('format = "privml-policy/v1"\n[tdx]\nxfams = ["e702060000000000"]\n')
    printed = json.loads(run(capsys, "trustee", "--policy", "policy.toml").stdout)
    assert json.loads(base64.b64decode(printed["payload"]))["xfam"] == ["e702060000000000"]
