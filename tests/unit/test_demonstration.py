"""A demonstration: marked in its root, refused unless allowed, at most a simulation, valid for years, replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import attestation_samples as samples
import pytest
from published_fake import DAY, NAME, NOW, ROOT_ROLES, Fake, published
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures
from test_client_trust import judged, put
from test_image_fetched import Caller, files
from test_publish_command import (  # noqa: F401 - fixtures
    PUBLISHERS,
    ROOTS,
    Project,
    begun,
    change_recipe,
    commit_something,
    project,
    resealed,
    templates,
)
from test_verify_tuple import GENUINE

from privml.base.errors import EvidenceError
from privml.base.times import seconds_of
from privml.client.trust import Trust
from privml.output import fetched as records
from privml.publish import check
from privml.statement import metadata
from privml.statement.metadata import Root, Signed
from privml.statement.untrusted import UntrustedError
from privml.verify.policy import Policy
from privml.verify.report import render
from privml.verify.verdict import Outcome as Result

END = NOW + 3650 * DAY
LAST_DAY = "2036-11-30"
MARKED = ("root", "roles.toml", "--demonstration", "--until", LAST_DAY)
EVERY_KEY = (*ROOTS, "online")


# --- what a caller gets ---------------------------------------------------------------------------------------------


def verdict_of(fake: Fake, tmp_path: Path, policy: Policy, **more: object):  # type: ignore[no-untyped-def]
    put(fake, tmp_path / "m")
    (tmp_path / "state").mkdir(exist_ok=True)
    expected = Trust(fake.trusted, NAME, None, str(tmp_path / "m"), tmp_path / "state").expected(NOW)
    return samples.judge(expected=expected, policy=policy, **more).verdict


def test_it_is_refused_unless_allowed_and_then_at_most_a_simulation(tmp_path: Path) -> None:
    fake = published(demonstration_until=END)
    refused = verdict_of(fake, tmp_path, samples.SIMULATED)
    assert (refused.outcome, [each.code for each in refused.refusals]) == (Result.REFUSED, ["demonstration"])
    allowed = dataclasses.replace(samples.SIMULATED, allow_demonstration=True)
    accepted = verdict_of(fake, tmp_path, allowed)
    assert (accepted.outcome, accepted.exit_code, accepted.accepted) == (Result.ACCEPTED_SIMULATED, 10, False)
    assert accepted.to_dict()["published"]["demonstration"] is True
    first, *rest = render(accepted).splitlines()
    assert first.startswith("ACCEPTED-SIMULATED (only a demonstration): demo-cpu (production), against version 1.1")
    assert first.endswith("a demonstration whose keys one person made")
    said = "a demonstration: one person made all keys, so nobody else vouches for this image"
    assert f"  note: {said}; no hardware vouches for this guest" in rest


def test_also_a_guest_on_genuine_hardware_is_at_most_a_simulation(tmp_path: Path) -> None:
    genuine = {"signature": GENUINE}
    mine = verdict_of(published(), tmp_path / "a", Policy(), **genuine)
    assert mine.outcome is Result.ACCEPTED
    theirs = verdict_of(
        published(demonstration_until=END), tmp_path / "b", Policy(allow_demonstration=True), **genuine
    )
    assert (theirs.outcome, theirs.exit_code) == (Result.ACCEPTED_SIMULATED, 10)
    assert "the platform is genuine" in render(theirs)
    assert "no hardware" not in render(theirs)


def test_a_project_s_root_needs_no_option_and_says_so(tmp_path: Path) -> None:
    verdict = judged(published())
    assert verdict.to_dict()["published"]["demonstration"] is False
    assert "demonstration" not in render(verdict)


@pytest.mark.parametrize(("first", "second"), [(None, END), (END, None)])
def test_a_root_never_changes_its_mark(first: int | None, second: int | None) -> None:
    fake = published(demonstration_until=first)
    edit = fake.edit()
    edit.root(ROOT_ROLES, second)
    fake.files |= edit.files
    with pytest.raises(UntrustedError, match=r"trust-root: got root version 2 with"):
        fake.walk()


def test_a_mark_that_is_false_is_malformed() -> None:
    root = metadata.decode(Root, published().trusted, "root")
    value = json.loads(root.data, strict=False) | {"demonstration": False}
    with pytest.raises(EvidenceError, match="demonstration: got false, expected true or no such field"):
        metadata.decode(Root, Signed(root.body, metadata.olpc(value)).encode(), "root")
    marked = metadata.decode(Root, published(END).trusted, "root")
    assert marked.body.demonstration
    assert Signed.of(marked.body).data == marked.data


# --- how one is made ------------------------------------------------------------------------------------------------


@pytest.fixture
def made(project: Project) -> Project:  # noqa: F811
    """A demonstration with one version; the caller has its root."""
    project.done(*MARKED, keys=EVERY_KEY)
    shutil.copy("measurements/root.json", "../root.json")
    project.publish("1.0")
    return project


def allowed(project: Project, *words: str) -> Outcome:  # noqa: F811
    given = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--allow-simulated", "../root.pem")
    trust = ("--trust", "../root.json", NAME, "--index", "measurements")
    return Outcome(project.capsys, "verify", "../doc.json", *given, *trust, *words)


def test_a_demonstration_is_made_checked_and_relied_on_for_years(made: Project) -> None:
    assert made.verify().code == 8
    assert "demonstration: the image is published as a demonstration" in made.verify().stdout
    assert allowed(made, "--allow-demonstration").code == 10
    assert made.done("check").stdout.splitlines()[-1] == "a demonstration: one person made all keys"
    assert json.loads(made.done("check", "--json").stdout)["demonstration"] is True
    last = seconds_of(f"{LAST_DAY}T00:00:00Z")
    for now, code in ((last - 1, 10), (last, 8)):
        made.now = now
        outcome = allowed(made, "--allow-demonstration", "--at", str(NOW))
        assert outcome.code == code, outcome.stdout
    assert "index-expired" in outcome.stdout
    found = check.check(Path("measurements"), last - 30 * DAY)
    assert (found.wrong, found.soon) == ([], [])
    assert check.check(Path("measurements"), last - DAY).soon


def test_it_is_replaced_whole_with_other_keys(made: Project) -> None:
    before = made.snapshot()
    Path("other.toml").write_text(Path("roles.toml").read_text().replace("root-1.pub", "root-4.pub"))
    again = ("root", "other.toml", *MARKED[2:], "--replace")
    told = json.loads(made.done(*again, "--json", keys=("root-4", "root-2", "online")).stdout)
    Path("other.toml").unlink()
    after = made.snapshot()
    assert [f"measurements/{path}" for path in told["written"]] == sorted(after)
    assert after["measurements/root.json"] != before["measurements/root.json"]
    assert not [path for path in after if f"/{NAME}/" in path]
    assert allowed(made, "--allow-demonstration").stdout.startswith("REFUSED: ")  # the old root is of nothing here
    made.publish("1.0")
    shutil.copy("measurements/root.json", "../root.json")
    assert allowed(made, "--allow-demonstration").code == 10
    made.done("check")


def test_the_first_one_may_be_begun_with_replace_too(project: Project) -> None:  # noqa: F811
    project.done(*MARKED, "--replace", keys=EVERY_KEY)
    project.done("check")


def foreign(project: Project) -> None:  # noqa: F811
    Path("measurements/letter.txt").write_text("mine")


def current(project: Project) -> None:  # noqa: F811
    Path("measurements/tdx-min").mkdir()
    Path("measurements/tdx-min/current.json").write_text("{}")


def damaged(project: Project) -> None:  # noqa: F811
    Path("measurements/tuf/1.root.json").write_text("{}")


def without_roots(project: Project) -> None:  # noqa: F811
    shutil.rmtree("measurements/tuf")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (foreign, 2, "letter.txt is not part of a demonstration"),
        (current, 2, "measurements/tdx-min is not part of a demonstration"),
        (damaged, 8, "1.root.json is not the root of a demonstration"),
        (without_roots, 2, "has no root"),
    ],
)
def test_nothing_but_a_demonstration_is_replaced(
    change: Callable[[Project], None], code: int, message: str, made: Project
) -> None:
    change(made)
    before = made.snapshot()
    outcome = made.run(*MARKED, "--replace", keys=EVERY_KEY)
    assert (outcome.code, outcome.stdout, made.snapshot()) == (code, "", before)
    assert message in outcome.stderr


def test_a_project_s_own_repository_is_never_replaced_or_marked(begun: Project) -> None:  # noqa: F811
    before = begun.snapshot()
    outcome = begun.run(*MARKED, "--replace", keys=EVERY_KEY)
    assert (outcome.code, "is not the root of a demonstration" in outcome.stderr) == (8, True)
    outcome = begun.run(*MARKED, keys=EVERY_KEY)
    assert (outcome.code, "is a project's own, not a demonstration, and stays so" in outcome.stderr) == (8, True)
    assert begun.snapshot() == before


def test_a_demonstration_stays_one_when_its_keys_change(made: Project) -> None:
    before = made.snapshot()
    outcome = made.run("root", "roles.toml", keys=EVERY_KEY)
    assert (outcome.code, "is a demonstration, and stays so" in outcome.stderr) == (8, True)
    assert made.snapshot() == before
    assert "has these keys already" in made.done(*MARKED, keys=EVERY_KEY).stdout
    longer = (*MARKED[:-1], "2037-01-01")
    made.done(*longer, keys=EVERY_KEY)
    assert allowed(made, "--allow-demonstration").code == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--until", LAST_DAY), "--until is for a demonstration"),
        (("--replace",), "--replace is for a demonstration"),
        (("--demonstration",), "--until is missing"),
        (("--demonstration", "--until", "soon"), "expected a day like 2036-11-30"),
        (("--demonstration", "--until", "2036-02-30"), "expected a day like 2036-11-30"),
        (("--demonstration", "--until", "2020-01-01"), "expected a day that is still to come"),
        (("--demonstration", "--until", LAST_DAY, "--replace", "--propose", "x"), "both given"),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str, project: Project) -> None:  # noqa: F811
    outcome = project.run("root", "roles.toml", *words, keys=EVERY_KEY)
    assert (outcome.code, outcome.stdout, Path("measurements").exists()) == (2, "", False)
    assert message in outcome.stderr


def test_a_development_image_is_not_published_in_a_demonstration_either(made: Project) -> None:
    commit_something()
    made.bend = {leg: resealed(variant="development") for leg in ("a", "b")}
    before = made.snapshot()
    outcome = made.version("1.1")
    assert (outcome.code, "variant got development, expected production" in outcome.stderr) == (8, True)
    assert made.snapshot() == before


# --- next to a project's own ----------------------------------------------------------------------------------------


def test_the_gate_leaves_a_demonstration_to_its_own_check(begun: Project) -> None:  # noqa: F811
    begun.done(*MARKED, "--in", "measurements/demonstration", keys=EVERY_KEY)
    begun.done("check")
    assert begun.done("check", "measurements/demonstration").stdout.endswith("one person made all keys\n")
    shutil.rmtree("measurements/demonstration/tuf")
    outcome = begun.run("check")
    assert (outcome.code, outcome.stdout) == (8, "demonstration/root.json: nothing names it\n")


def test_the_gate_compares_with_what_was_recorded_never_with_the_checkout(begun: Project) -> None:  # noqa: F811
    change_recipe()
    Path("recipes/demo-cpu.lock.json").write_text("{}")
    begun.done("check")
    shutil.rmtree("recipes")
    shutil.rmtree(".git")
    begun.done("check")


# --- images that were fetched ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_proxy")
def test_an_image_of_a_demonstration_is_fetched_only_if_allowed(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "caller/store"))
    (tmp_path / "caller").mkdir()
    caller = Caller(made, tmp_path / "caller")
    refused = caller.fetch()
    assert (refused.code, refused.stdout, caller.output.exists()) == (8, "", False)
    assert "demonstration: the image is published as a demonstration: one person made all keys" in refused.stderr
    outcome = caller.fetched("--allow-demonstration")
    assert "warning: a demonstration: one person made all keys" in outcome.stderr
    record = records.read(caller.output, caller.manifest)
    assert record is not None and record.demonstration
    assert json.loads(files(caller.output)["published/fetched.json"])["demonstration"] is True
    shown = caller.run("inspect", str(caller.output)).stdout.splitlines()[1]
    assert shown.endswith("a demonstration whose keys one person made")
    words = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--allow-simulated", "../root.pem")
    expect = ("verify", "../doc.json", *words, "--expect", str(caller.output))
    assert "demonstration: the image is published" in caller.run(*expect).stdout
    assert caller.run(*expect).code == 8
    accepted = caller.run(*expect, "--allow-demonstration")
    assert (accepted.code, accepted.stdout.startswith("ACCEPTED-SIMULATED (only a demonstration)")) == (10, True)


def test_a_proxy_does_not_start_on_a_demonstration(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr(
        "privml.cli.proxy.serve", lambda _, guests, **__: served.extend(one.url for one in guests.all)
    )
    trust = ("--trust", "../root.json", NAME, "--index", "measurements", "--offline")
    outcome = Outcome(made.capsys, "proxy", "https://127.0.0.1:1", *trust)
    assert served == []
    assert (outcome.code, "demonstration: the image is published" in outcome.stderr) == (8, True)
    assert "`--allow-demonstration` accepts it, as a simulation" in outcome.stderr
    assert Outcome(made.capsys, "proxy", "https://127.0.0.1:1", *trust, "--allow-demonstration").code == 0
    assert served == ["https://127.0.0.1:1"]


def test_the_option_is_for_published_measurements(begun: Project) -> None:  # noqa: F811
    outcome = Outcome(begun.capsys, "image", NAME, "--allow-demonstration")
    assert (outcome.code, "--allow-demonstration is for published measurements" in outcome.stderr) == (2, True)


# --- what others are shown ------------------------------------------------------------------------------------------


def test_a_search_and_the_pages_say_so_and_no_other_verifier_gets_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from published_whole import build

    from privml.publish.site import site

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fake = Fake(demonstration_until=END)
    fake.publish("1.0", build())
    put(fake, tmp_path / "m")
    root, register = str(tmp_path / "m/root.json"), samples.PREDICATE.launches[0].accepted("rtmr1")[0].hex()
    for words in (("--in", str(tmp_path / "m")), ("--trust", root)):
        assert "a demonstration: one person made all keys" in Outcome(capsys, "lookup", register, *words).stderr
    pages = [data for path, data in site(tmp_path / "m").items() if path.endswith(".html")]
    assert pages
    assert all(b"This is a demonstration: one person made all keys." in page for page in pages)
    said = Outcome(capsys, "export", f"{NAME}@1.0", "--format", "trustee", "--trust", root)
    assert said.code == 8
    assert "demonstration: got a root marked as a demonstration" in said.stderr


# --- the one in this repository -------------------------------------------------------------------------------------


def test_the_demonstration_of_this_repository_is_whole() -> None:
    found = check.check(Path(__file__).parents[2] / "measurements/demonstration", seconds_of("2026-12-01T00:00:00Z"))
    assert (found.wrong, found.soon, found.demonstration, found.versions) == ([], [], True, 2)
