"""`verify --trust`: what a root vouches for is compared with the guest, and every refusal has its code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attestation_samples as samples
import logged_fake
import pytest
from pool_server import serving
from published_fake import (
    DAY,
    NAME,
    NOW,
    ROOT_ROLES,
    Fake,
    build,
    new_root,
    published,
    role,
    signer,
)
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures

from privml.base.dsse import IN_TOTO, Envelope, Signature, decode
from privml.base.errors import EvidenceError, HostError, UsageError
from privml.client.ci import Workflow
from privml.client.trust import Trust, trust_of
from privml.output import manifest as manifests
from privml.output.memory import Memories, newest
from privml.statement import metadata, rebuild, rebuilders
from privml.statement.index import State
from privml.statement.intoto import decode as statement_in
from privml.statement.rebuilders import Rebuilder
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Memory
from privml.verify.policyfile import FORMAT as POLICY
from privml.verify.verdict import Outcome as Result
from privml.verify.verdict import Verdict

BASE = ("verify", "doc.json", "--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex())
ALLOWED = ("--allow-simulated", "root.pem")
TRUST = ("--trust", "measurements/root.json", NAME)


def put(fake: Fake, folder: Path) -> None:
    """Write the repository; the caller's root stays the first one."""
    for path, data in fake.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "root.json").write_bytes(fake.trusted)


@pytest.fixture
def fake() -> Fake:
    return published()


@pytest.fixture
def here(place: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A document of the honest guest, the repository that publishes its image, and a directory for the memory."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "state").mkdir()
    (place / "root.pem").write_bytes(samples.sim.root_pem())
    (place / "doc.json").write_bytes(samples.document().encode())
    put(fake, place / "measurements")
    return place


def judged(fake: Fake, version: str | None = None, memory: Memory | None = None, **more: Any) -> Verdict:
    """The verdict on the honest guest, with the simulation allowed; ``UntrustedError`` as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        put(fake, Path(folder) / "m")
        state = Path(folder) / "state"
        state.mkdir()
        trust = Trust(fake.trusted, NAME, version, str(Path(folder) / "m"), state, **more)
        if memory is not None:
            key = hashlib.sha256(fake.trusted).hexdigest()
            (state / f"{key}.json").write_bytes(memory.encode())
        return samples.judge(expected=trust.expected(NOW)).verdict


def codes(fake: Fake, *words: Any, **more: Any) -> set[str]:
    try:
        verdict = judged(fake, *words, **more)
    except UntrustedError as error:
        return {error.code}
    return {refusal.code for refusal in verdict.refusals}


# --- one case for each code -----------------------------------------------------------------------------------------


def stranger_root(fake: Fake) -> None:
    other = Fake({**ROOT_ROLES, "root": role(2, "x", "y")}, signers=("x", "y", *("root-1", "root-2"), "online"))
    fake.files["tuf/2.root.json"] = other.trusted.replace(b'"version": 1', b'"version": 2')


def revoke(fake: Fake) -> None:
    for number in ("1.0", "1.1"):
        fake.set_state(number, State.REVOKED, "a hole")


def raise_minimum(fake: Fake) -> None:
    index = fake.index()
    assert index is not None
    fake.put(dataclasses.replace(index, minimum_serial=3))


def unsigned_statement(fake: Fake) -> None:
    for number in ("1.0", "1.1"):
        path = f"{NAME}/{number}/statement.dsse.json"
        bad = dataclasses.replace(decode(fake.files[path]), signatures=(Signature(b"x", "y"),))
        fake.files[path] = bad.encode()


def demonstrate(fake: Fake) -> None:
    other = published(demonstration_until=NOW + 3650 * DAY)
    fake.files, fake.trusted = other.files, other.trusted


def put_file(path: str, data: bytes) -> Callable[[Fake], None]:
    return lambda fake: fake.files.update({path: data})


CASES: dict[str, tuple[Callable[[Fake], None], dict[str, Any]]] = {
    "trust-root": (stranger_root, {}),
    "index-signatures": (
        lambda fake: fake.files.update(
            {"tuf/timestamp.json": fake.files["tuf/timestamp.json"].replace(b"b8ea", b"b8eb")}
        ),
        {},
    ),
    "index-digest": (put_file(f"{NAME}/index.json", b"{}"), {}),
    "index-rollback": (lambda fake: None, {"memory": Memory(root=1, timestamp=99)}),
    "index-expired": (lambda fake: fake.refresh(now=NOW - 30 * DAY), {}),
    "statement-signatures": (unsigned_statement, {}),
    "statement-digest": (put_file(f"{NAME}/1.1/release.json", b"{}"), {}),
    "version-unknown": (lambda fake: None, {"version": "9.9"}),
    "version-revoked": (revoke, {}),
    "version-below-minimum": (raise_minimum, {}),
    "demonstration": (demonstrate, {}),
    "rebuilders": (lambda fake: None, {"rebuilders": (Rebuilder("ann", signer("ann").public),), "asked": 1}),
    "not-logged": (lambda fake: None, {"logs": logged_fake.UNWITNESSED}),
    "ci-identity": (lambda fake: None, {"workflow": Workflow("owner/name", None, cast(Any, None))}),
    "witnesses": (lambda fake: logged_fake.staple(fake, "1.1", ["w1"]), {"logs": logged_fake.WITNESSED}),
}


@pytest.mark.parametrize("code", CASES)
def test_each_refusal_has_its_case(code: str, fake: Fake) -> None:
    change, more = CASES[code]
    change(fake)
    assert codes(fake, **more) == {code}


def test_the_honest_guest_is_accepted_by_the_newest_version_that_fits(fake: Fake) -> None:
    verdict = judged(fake)
    assert verdict.outcome is Result.ACCEPTED_SIMULATED
    first = (
        "version 1.1 (serial 2), signed by 3 of 3 publishers (0dcddf6f7f087f85, 84f522c40a2df55a, 87e0b639fcbb639c)"
    )
    assert str(verdict.anchor) == f"{first}, no rebuilder asked"
    assert "note: index valid until 2026-12-18T11:06:40Z" in "\n".join(f"note: {note}" for note in verdict.notes)
    assert "first use of this root here: there was nothing to compare the index's versions with" in verdict.notes


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\n", lambda data: data.replace(b"llama", b"other"), lambda _: b""]
)
def test_the_models_are_those_of_the_manifest_that_was_signed(fake: Fake, change: Callable[[bytes], bytes]) -> None:
    path = f"{NAME}/1.1/manifest.json"
    named = [model.name for model in manifests.decode(fake.files[path]).models]
    assert [model.name for model in judged(fake, "1.1").models] == named != []
    put_file(path, change(fake.files[path]))(fake)
    assert codes(fake, "1.1") == {"statement-digest"}
    del fake.files[path]
    with pytest.raises(EvidenceError, match="no such file in the repository"):
        judged(fake, "1.1")


def test_a_guest_is_compared_with_the_version_that_it_runs() -> None:
    """A roll-out: two versions count, and guests of both are accepted."""
    fake = Fake()
    fake.publish("1.0")
    other = samples.with_values(samples.PREDICATE.launches[1], "rtmr1", b"7" * 48)
    other = dataclasses.replace(other, events=tuple(event for event in other.events if event.register != "rtmr1"))
    fake.publish("2.0", build(dataclasses.replace(samples.PREDICATE, launches=(other,))))
    assert judged(fake).anchor.version == "1.0"  # type: ignore[union-attr]
    assert codes(fake, "2.0") == {"rtmr1"}
    assert codes(fake, "1.0") == set()
    fake.set_state("1.0", State.SUPERSEDED, "newer kernel", "2.0")
    verdict = judged(fake)
    assert verdict.outcome is Result.ACCEPTED_SIMULATED
    assert "1.0 is superseded by 2.0: newer kernel" in verdict.notes
    fake.set_state("1.0", State.REVOKED, "a hole", "2.0")
    assert codes(fake) == codes(fake, "1.0") == {"version-revoked"}
    [refusal] = judged(fake).refusals
    assert refusal.got == "1.0 is revoked: a hole; use 2.0"


def test_a_revoked_version_whose_files_are_gone_hides_no_other(fake: Fake) -> None:
    fake.set_state("1.0", State.WITHDRAWN, "a mistake")
    for path in list(fake.files):
        if path.startswith(f"{NAME}/1.0/"):
            del fake.files[path]
    assert judged(fake).outcome is Result.ACCEPTED_SIMULATED
    with pytest.raises(EvidenceError, match="no such file"):
        judged(fake, "1.0")


def test_one_signer_is_said(fake: Fake) -> None:
    fake = Fake(images={NAME: role(1, "alice")})
    fake.publish("1.0", signers=("alice", "online"))
    verdict = judged(fake)
    assert "signed by 1 of 1 publishers" in str(verdict.anchor)
    assert "one publisher alone signed this version" in verdict.notes


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_first_line_names_version_serial_and_signers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    assert outcome.code == 10
    first = outcome.stdout.splitlines()[0]
    assert first.startswith(
        "ACCEPTED-SIMULATED (no hardware vouches for this): demo-cpu (production), against version 1.1 (serial 2), "
        "signed by 3 of 3 publishers ("
    )
    assert "no rebuilder asked, with your nonce, as of" in first
    again = Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    assert "first use of this root" in outcome.stdout
    assert "first use of this root" not in again.stdout


def test_the_json_has_the_version_and_its_signers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--json").stdout)["published"]
    assert (told["version"], told["serial"], told["state"], told["replaced_by"]) == ("1.1", 2, "current", None)
    assert (len(told["signers"]), told["threshold"], told["publishers"]) == (3, 2, 3)
    assert (told["rebuilders"], told["rebuilders_asked"], told["valid_until"]) == ([], None, NOW + 30 * DAY)


def test_simulations_are_refused_under_trust_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, *BASE, *TRUST, "--json")
    told = json.loads(outcome.stdout)
    assert (outcome.code, told["outcome"]) == (8, "refused")
    assert "simulated" in {refusal["code"] for refusal in told["refusals"]}


@pytest.mark.parametrize(
    ("code", "words"),
    [("version-unknown", ("--trust", "measurements/root.json", "demo-cpu@9")), ("index-digest", TRUST)],
)
def test_without_a_statement_the_verdict_is_that_reason(
    code: str, words: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if code == "index-digest":
        (here / "measurements/demo-cpu/index.json").write_bytes(b"{}")
    outcome = Outcome(capsys, *BASE, *ALLOWED, *words)
    assert outcome.code == 8
    first, second, *_ = outcome.stdout.splitlines()
    assert first.startswith("REFUSED: demo-cpu, against ")
    assert first.endswith(", which the trusted root does not vouch for")
    assert second.startswith(f"  {code}: ")
    told = json.loads(Outcome(capsys, *BASE, *ALLOWED, *words, "--json").stdout)
    assert [refusal["code"] for refusal in told["refusals"]] == [code]


def test_a_malformed_index_ends_with_9(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "measurements/tuf/timestamp.json").write_bytes(b"{}")
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    assert (outcome.code, outcome.stdout) == (9, "")
    assert "timestamp.signatures: missing" in outcome.stderr


def test_a_policy_can_accept_an_index_that_ended_lately(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.refresh(now=NOW - 32 * DAY)
    put(fake, here / "measurements")
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST).code == 8
    for days, code in ((2, 8), (3, 10)):
        (here / "policy.toml").write_text(f'format = "{POLICY}"\n[published]\nexpired_days = {days}\n')
        outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--policy", "policy.toml")
        assert outcome.code == code
    assert "relaxed: index-expired" in outcome.stdout.splitlines()[0]


def test_a_policy_can_ask_for_a_later_version(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lowest, code in ((2, 10), (3, 8)):
        (here / "policy.toml").write_text(f'format = "{POLICY}"\n[published]\nminimum_serial = {lowest}\n')
        outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--policy", "policy.toml")
        assert outcome.code == code
    assert "version-below-minimum" in outcome.stdout


def test_a_file_of_an_earlier_time_is_judged_by_what_counts_now(
    here: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--at` moves the time of the evidence, never that of the index: an old copy of it would hide a revocation."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: NOW + 31 * DAY)
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--at", str(NOW))
    assert outcome.code == 8
    assert "index-expired: the index is out of date" in outcome.stdout


def test_an_older_copy_is_refused_after_a_newer_was_seen(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    old = dict(fake.files)
    fake.set_state("1.1", State.REVOKED, "a hole")
    put(fake, here / "measurements")
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST).code == 10  # as 1.0, which has the same values
    fake.files = old
    put(fake, here / "measurements")
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    assert outcome.code == 8
    assert "index-rollback: the index is older than one seen before" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trust", "none.json", NAME), "cannot be read"),
        (("--trust", "measurements/root.json", "Demo"), "expected NAME or NAME@VERSION"),
        (("--trust", "measurements/root.json", "demo-cpu@"), "expected NAME or NAME@VERSION"),
        (("--trust", "measurements/root.json", "demo-cpu@../1"), "expected NAME or NAME@VERSION"),
        ((*TRUST, "--index", "nowhere"), "--index: got `nowhere`"),
        ((*TRUST, "--index", "https://a:b@host/x"), "holds a user or password"),
        (("--trust", "alone.json", NAME), "is not a repository of published measurements"),
        ((*TRUST, "--expect", "measurements"), "both given"),
        ((*TRUST, "--rebuilders", "x.json"), "expected FILE:k"),
        ((*TRUST, "--rebuilders", "x.json:1"), "cannot be read"),
        (("--expect", "measurements", "--index", "x"), "needs --trust"),
        (("--expect", "measurements", "--trust-state", "x"), "needs --trust"),
        ((), "the option `--expect` or `--trust` is missing"),
    ],
)
def test_words_that_name_no_anchor(
    words: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "alone.json").write_bytes((here / "measurements/root.json").read_bytes())
    outcome = Outcome(capsys, *BASE, *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr


def test_a_root_that_is_not_one_is_said_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = here / "measurements/root.json"
    root.write_bytes((here / "measurements/tuf/timestamp.json").read_bytes())
    assert Outcome(capsys, *BASE, *TRUST).code == 9
    root.write_bytes(b"x" * (2 << 20))
    assert Outcome(capsys, *BASE, *TRUST).code == 9


def test_a_root_that_its_own_keys_did_not_sign_is_refused(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.resign("tuf/1.root.json", metadata.Root, lambda body: body, "root-1")
    (here / "measurements/root.json").write_bytes(fake.files["tuf/1.root.json"])
    outcome = Outcome(capsys, *BASE, *TRUST)
    assert outcome.code == 8
    assert "trust-root: the root that you trust does not lead" in outcome.stdout
    assert Outcome(capsys, "proxy", "https://127.0.0.1:1", *TRUST).code == 8


# --- where the repository is ----------------------------------------------------------------------------------------


def test_a_repository_is_followed_over_http(here: Path, no_proxy: None, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(here / "measurements") as (address, asked):
        outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--index", address + "/")
    assert outcome.code == 10
    assert asked == [
        "/tuf/2.root.json",
        "/tuf/timestamp.json",
        "/tuf/3.snapshot.json",
        "/tuf/1.targets.json",
        "/tuf/2.demo-cpu.json",
        "/demo-cpu/index.json",
        "/demo-cpu/1.1/release.json",
        "/demo-cpu/1.1/statement.dsse.json",
        "/demo-cpu/1.1/manifest.json",
        "/demo-cpu/1.0/release.json",
        "/demo-cpu/1.0/statement.dsse.json",
        "/demo-cpu/1.0/manifest.json",
    ]


def test_a_server_that_does_not_answer_is_exit_5_and_an_endless_file_is_refused(
    here: Path, no_proxy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--index", "http://127.0.0.1:9")
    assert outcome.code == 5
    assert "hint: without a network, copy the repository" in outcome.stderr
    (here / "measurements/tuf/timestamp.json").write_bytes(b" " * (1 << 20))
    with serving(here / "measurements") as (address, _):
        assert Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--index", address).code == 9


def test_new_roots_are_followed_from_the_callers_own(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        new_root(fake, ROOT_ROLES)
    put(fake, here / "measurements")
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST).code == 10


# --- the memory -----------------------------------------------------------------------------------------------------


def test_the_memory_is_kept_where_the_state_of_this_user_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    [path] = (here / "state/privml-build/trust").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Memory.decode(path.read_bytes(), "x").timestamp == 3
    (here / "elsewhere").mkdir()
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--trust-state", "elsewhere").code == 10
    assert [each.name for each in (here / "elsewhere").iterdir()] == [path.name]


def missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "nowhere"))
    return ()


def missing_option(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return ("--trust-state", str(here / "nowhere"))


def no_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(here / "nobody"))
    return ()


def read_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    real = os.access
    monkeypatch.setattr(
        "privml.output.memory.os.access", lambda path, mode: False if mode & os.W_OK else real(path, mode)
    )
    return ()


def full(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("privml.output.memory.write_atomic", fails)
    return ()


def damaged(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    folder = here / "state/privml-build/trust"
    folder.mkdir(parents=True)
    key = hashlib.sha256((here / "measurements/root.json").read_bytes()).hexdigest()
    (folder / f"{key}.json").write_bytes(b"{}")
    return ()


def blocked(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (here / "state/privml-build").write_text("a file")
    return ()


@pytest.mark.parametrize("spoil", [missing, missing_option, no_home, read_only, full, damaged, blocked])
def test_a_memory_that_cannot_be_kept_is_exit_5_and_never_none(
    spoil: Callable[..., tuple[str, ...]],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, *spoil(here, monkeypatch))
    assert (outcome.code, outcome.stdout) == (5, "")


def test_what_another_process_saw_meanwhile_is_kept(tmp_path: Path) -> None:
    older = Memory(1, "a", 3, 3, {"targets": 1, NAME: 2}, {NAME: 1})
    newer = Memory(1, "a", 5, 4, {"targets": 2, NAME: 3}, {NAME: 2})
    first, second = Memories(tmp_path), Memories(tmp_path)
    assert (first.read("r"), second.read("r")) == (Memory(), Memory())
    second.write("r", newer)
    first.write("r", older)
    assert Memories(tmp_path).read("r") == newer
    assert newest(Memory(2, "b", 1, 1, {"targets": 1}, {}), newer) == Memory(2, "b", 1, 1, {"targets": 1}, {NAME: 2})
    assert newest(older, dataclasses.replace(newer, root=2, online="b")).online == "b"


def test_a_refused_repository_does_not_make_the_memory_older(fake: Fake, tmp_path: Path) -> None:
    put(fake, tmp_path / "m")
    (tmp_path / "s").mkdir()
    trust = Trust(fake.trusted, NAME, None, str(tmp_path / "m"), tmp_path / "s")
    trust.expected(NOW)
    [path] = (tmp_path / "s").iterdir()
    before = path.read_bytes()
    (tmp_path / "m/demo-cpu/index.json").write_bytes(b"{}")
    with pytest.raises(UntrustedError):
        trust.expected(NOW)
    assert path.read_bytes() == before


# --- rebuilders -----------------------------------------------------------------------------------------------------


def endorse(fake: Fake, who: str, version: str = "1.1", key: str | None = None, **changes: Any) -> None:
    folder = f"{NAME}/{version}"
    release = fake_release(fake, version)
    subjects = statement_in(decode(fake.files[f"{folder}/statement.dsse.json"]).payload).subjects
    made = rebuild.Rebuild(
        subjects, NAME, version, rebuild.IDENTICAL, release.statement_sha256, release.recipe_sha256,
        release.lock_sha256, "0.1.0", {}, NOW, (),
    )  # fmt: skip
    envelope = Envelope(IN_TOTO, dataclasses.replace(made, **changes).encode(), ())
    by = signer(key or who)
    signed = dataclasses.replace(envelope, signatures=(Signature(by.sign(envelope.signed), by.public.keyid),))
    fake.files[f"{folder}/endorsements/{who}.dsse.json"] = signed.encode()


def fake_release(fake: Fake, version: str) -> Any:
    from privml.statement.release import decode as release_in

    return release_in(fake.files[f"{NAME}/{version}/release.json"])


def rebuilt_by(fake: Fake, *names: str, keys: dict[str, str] | None = None) -> tuple[str, ...]:
    people = tuple(Rebuilder(name, signer((keys or {}).get(name, name)).public) for name in names)
    return judged(fake, rebuilders=people, asked=1).anchor.rebuilders  # type: ignore[union-attr]


def test_rebuilders_of_the_callers_list_are_named(here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    endorse(fake, "ann")
    endorse(fake, "ben")
    endorse(fake, "zoe")
    put(fake, here / "measurements")
    people = [Rebuilder(name, signer(name).public) for name in ("ann", "ben", "carl")]
    (here / "people.json").write_bytes(rebuilders.encode(people))
    assert list(rebuilders.decode((here / "people.json").read_bytes(), "x")) == people
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--rebuilders", "people.json:2")
    assert outcome.code == 10
    assert ", rebuilt by ann, ben, with your nonce" in outcome.stdout.splitlines()[0]
    assert "  note: rebuilder carl: has no endorsement of this version" in outcome.stdout.splitlines()
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--rebuilders", "people.json:3")
    assert outcome.code == 8
    assert "rebuilders: too few of your rebuilders got the same image" in outcome.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"version": "1.0"},
        {"statement_sha256": bytes(32)},
        {"recipe_sha256": bytes(32)},
        {"lock_sha256": bytes(32)},
        {"subjects": (rebuild.Subject("uki.efi", bytes(32)),)},
        {"result": rebuild.DIFFERS, "differences": ("uki.efi",)},
    ],
)
def test_an_endorsement_of_something_else_does_not_count(changes: dict[str, Any], fake: Fake) -> None:
    endorse(fake, "ann", **changes)
    assert rebuilt_by(fake, "ann") == ()


def test_a_rebuilder_counts_by_an_own_key_that_is_no_publishers(fake: Fake) -> None:
    endorse(fake, "ann", key="ben")
    endorse(fake, "alice")
    endorse(fake, "ben")
    fake.files[f"{NAME}/1.1/endorsements/zoe.dsse.json"] = b"{}"
    assert rebuilt_by(fake, "ann", "alice", "ben", "zoe") == ("ben",)
    with pytest.raises(EvidenceError, match="is listed twice"):
        rebuilders.decode(rebuilders.encode([Rebuilder(name, signer("ann").public) for name in ("a", "b")]), "x")
    with pytest.raises(EvidenceError, match="is listed twice"):
        rebuilders.decode(rebuilders.encode([Rebuilder("a", signer(name).public) for name in ("a", "b")]), "x")


# --- logs -----------------------------------------------------------------------------------------------------------


def with_policy(here: Path, text: str) -> tuple[str, ...]:
    (here / "policy.txt").write_text(text)
    return (*BASE, *ALLOWED, *TRUST, "--log-policy", "policy.txt")


def test_a_version_with_a_proof_is_said_to_be_logged(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_fake.staple(fake, "1.1", ["w1", "w3"])
    put(fake, here / "measurements")
    words = with_policy(here, logged_fake.policy_text())
    outcome = Outcome(capsys, *words)
    assert outcome.code == 10
    first, *rest = outcome.stdout.splitlines()
    assert ", no rebuilder asked, logged by example.org/measurements with 2 witnesses, with your nonce" in first
    notes = {line.removeprefix("  note: ") for line in rest}
    assert "release is entry 5 of the 13 of example.org/measurements, cosigned by w1, w3" in notes
    assert "the proof is of the release, not of the index: an index shown only to you would not be noticed" in notes
    assert not [note for note in notes if note.startswith("no ")]
    told = json.loads(Outcome(capsys, *words, "--json").stdout)["published"]
    assert (told["log_asked"], told["log"]) == (
        True,
        {
            "origin": "example.org/measurements",
            "index": 5,
            "size": 13,
            "witnesses": ["w1", "w3"],
            "quorum": True,
        },
    )


def test_without_witnesses_the_verdict_says_what_is_not_seen(
    here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_fake.staple(fake, "1.1")
    put(fake, here / "measurements")
    outcome = Outcome(capsys, *with_policy(here, logged_fake.policy_text("", "none")))
    assert outcome.code == 10
    assert ", logged by example.org/measurements with no witness, " in outcome.stdout.splitlines()[0]
    assert (
        "  note: no witness: a second log with this entry, shown only to you, would not be noticed" in outcome.stdout
    )
    outcome = Outcome(capsys, *with_policy(here, logged_fake.policy_text()))
    assert outcome.code == 8
    assert "witnesses: too few of your witnesses cosigned the log" in outcome.stdout
    assert "    got      nobody\n    expected all: 2 of w1, w2, w3\n" in outcome.stdout


def test_without_a_policy_no_proof_is_read(here: Path, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.files[f"{NAME}/1.1/statement.tlog-proof"] = b"nonsense"
    put(fake, here / "measurements")
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST)
    assert outcome.code == 10
    assert "logged" not in outcome.stdout
    assert "no transparency log was read" in outcome.stdout
    told = json.loads(Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--json").stdout)["published"]
    assert (told["log_asked"], told["log"]) == (False, None)


def other_release(fake: Fake) -> None:
    fake.files[f"{NAME}/1.1/statement.tlog-proof"] = logged_fake.prove(logged_fake.entry(fake, "1.0"))


def other_log(fake: Fake) -> None:
    data = logged_fake.prove(logged_fake.entry(fake, "1.1"), by="other")
    fake.files[f"{NAME}/1.1/statement.tlog-proof"] = data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fake: None, "no demo-cpu/1.1/statement.tlog-proof"),
        (other_release, "it does not lead from the entry to the root"),
        (other_log, "signed by no log of the policy; it is of example.org/measurements"),
        (put_file(f"{NAME}/1.1/statement.tlog-proof", b""), "expected `c2sp.org/tlog-proof@v1`"),
        (put_file(f"{NAME}/1.1/statement.tlog-proof", b"x" * (1 << 20)), "proof: more than"),
    ],
)
def test_what_does_not_prove_this_release_is_not_logged(
    change: Callable[[Fake], None], said: str, fake: Fake
) -> None:
    change(fake)
    verdict = judged(fake, logs=logged_fake.UNWITNESSED)
    [refusal] = verdict.refusals
    assert refusal.code == "not-logged"
    assert said in refusal.got
    assert verdict.anchor.to_dict()["log"] is None  # type: ignore[union-attr]


def test_the_proxy_asks_for_the_log_too(
    here: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privml.cli.proxy.time.time", lambda: NOW)
    seen: list[Any] = []

    def serve(listen: Any, upstreams: Any, check: Any, **_: Any) -> None:
        document = samples.document().encode()
        seen.append(check(document, samples.NONCE, samples.SPKI).verdict)
        logged_fake.staple(fake, "1.1", ["w1", "w2"])
        put(fake, here / "measurements")
        seen.append(check(document, samples.NONCE, samples.SPKI).verdict)

    monkeypatch.setattr("privml.cli.proxy.serve", serve)
    (here / "policy.txt").write_text(logged_fake.policy_text())
    words = ("proxy", "https://127.0.0.1:1", *ALLOWED, *TRUST, "--log-policy", "policy.txt", "--offline")
    assert Outcome(capsys, *words).code == 0
    assert [{refusal.code for refusal in verdict.refusals} for verdict in seen] == [{"not-logged"}, set()]


def test_the_version_that_matched_must_be_logged_and_no_other(fake: Fake) -> None:
    logged_fake.staple(fake, "1.0")
    assert codes(fake, "1.0", logs=logged_fake.UNWITNESSED) == set()
    assert codes(fake, "1.1", logs=logged_fake.UNWITNESSED) == {"not-logged"}


def test_a_policy_that_cannot_be_read_stops(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--log-policy", "nowhere").code == 2
    outcome = Outcome(capsys, *with_policy(here, "quorum none\n"))
    assert (outcome.code, outcome.stdout) == (9, "")
    assert "policy.txt: no log, expected at least one" in outcome.stderr
    outcome = Outcome(capsys, *BASE, "--expect", "out/demo-cpu", "--log-policy", "policy.txt")
    assert outcome.code == 2


# --- the proxy ------------------------------------------------------------------------------------------------------


def test_the_proxy_reads_the_index_again_at_each_verification(
    here: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privml.cli.proxy.time.time", lambda: NOW)
    seen: list[Any] = []

    def serve(listen: Any, upstreams: Any, check: Any, **_: Any) -> None:
        document = samples.document().encode()
        seen.append(check(document, samples.NONCE, samples.SPKI).verdict)
        revoke(fake)
        put(fake, here / "measurements")
        seen.append(check(document, samples.NONCE, samples.SPKI).verdict)
        (here / "measurements/demo-cpu/index.json").write_bytes(b"{}")
        with pytest.raises(UntrustedError):
            check(document, samples.NONCE, samples.SPKI)

    monkeypatch.setattr("privml.cli.proxy.serve", serve)
    outcome = Outcome(capsys, "proxy", "https://127.0.0.1:1", *ALLOWED, *TRUST, "--offline")
    assert outcome.code == 0, outcome.stderr
    assert [verdict.outcome for verdict in seen] == [Result.ACCEPTED_SIMULATED, Result.REFUSED]
    assert {refusal.code for refusal in seen[1].refusals} == {"version-revoked"}


def test_a_wrong_anchor_stops_the_proxy_before_it_listens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "proxy", "https://127.0.0.1:1", "--trust", "measurements/root.json", "other")
    assert outcome.code == 8
    assert "version-unknown: got image other, expected one of those published: demo-cpu" in outcome.stderr


def test_the_words_give_what_is_trusted(here: Path) -> None:
    found = trust_of(here / "measurements/root.json", f"{NAME}@1.0", None)
    assert (found.name, found.version, found.source) == (NAME, "1.0", str(here / "measurements"))
    with pytest.raises(HostError):
        dataclasses.replace(found, state=here / "nowhere").expected(NOW)
    with pytest.raises(UsageError):
        trust_of(here / "measurements/root.json", "tuf", None)
