"""`lookup`: the versions that have a value, on whose word, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import attestation_samples as samples
import pytest
from pool_server import serving
from published_fake import DAY, NAME, NOW, Fake, published, role
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures
from test_client_trust import put

from privml.base.errors import UsageError
from privml.output import manifest
from privml.statement import release
from privml.statement.index import State
from privml.statement.lookup import digits_of

RTMR1 = samples.PREDICATE.launches[0].accepted("rtmr1")[0].hex()
TWO_PASS = samples.PREDICATE.launches[0].accepted("mrtd")[1].hex()
LABELS = [launch.label for launch in samples.PREDICATE.launches]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Two versions of one image in ``measurements``, the first superseded by the second."""
    monkeypatch.setattr("privml.cli.lookup.time.time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "state").mkdir()
    fake = published()
    fake.set_state("1.0", State.SUPERSEDED, "", "1.1")
    put(fake, place / "measurements")
    return place


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Outcome:
    return Outcome(capsys, "lookup", *words)


def test_a_register_is_found_in_each_version_with_its_shapes_the_newest_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capsys, RTMR1)
    assert (outcome.code, outcome.stderr) == (0, "")
    first, *lines = outcome.stdout.splitlines()
    assert first.startswith("in measurements, checked only from its own first root (SHA-256 ")
    assert "not under a root that you trust" in first
    shapes = [f"    {label}" for label in LABELS]
    assert lines == [
        f"{NAME} 1.1 (serial 2, current)",
        f"  RTMR1 {RTMR1}",
        *shapes,
        f"{NAME} 1.0 (serial 1, superseded by 1.1)",
        f"  RTMR1 {RTMR1}",
        *shapes,
    ]


def test_rtmr0_is_of_one_machine_size_and_either_mrtd_is_found(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = samples.PREDICATE.launches[1]
    told = json.loads(run(capsys, one.accepted("rtmr0")[0].hex(), "--json").stdout)
    assert [row["shapes"] for row in told["found"]] == [[one.label]] * 2
    told = json.loads(run(capsys, f"0X{TWO_PASS.upper()[:8]}", "--json").stdout)
    assert {(row["what"], row["value"]) for row in told["found"]} == {("mrtd", TWO_PASS)}


def test_digests_of_files_and_documents_are_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / f"measurements/{NAME}/1.1"
    made = release.decode((folder / "release.json").read_bytes())
    lock = hashlib.sha256((folder / "lock.json").read_bytes()).hexdigest()
    uki = manifest.decode((folder / "manifest.json").read_bytes()).artefacts["uki.efi"].sha256
    for what, digest, versions in (
        ("release", made.sha256.hex(), ["1.1"]),
        ("statement", made.statement_sha256.hex(), ["1.1", "1.0"]),
        ("file lock.json", lock, ["1.1"]),
        ("artefact uki.efi", uki, ["1.1", "1.0"]),
    ):
        told = json.loads(run(capsys, f"sha256:{digest}", "--json").stdout)["found"]
        assert [(row["what"], row["version"], row["shapes"]) for row in told] == [
            (what, each, []) for each in versions
        ]


def test_an_unknown_value_is_exit_1_and_says_what_was_searched(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capsys, "0123456789" * 9)
    assert outcome.code == 1
    assert f"no published version has 0123456789012345.., of 2 versions of {NAME}" in outcome.stderr
    assert json.loads(run(capsys, "01234567", "--json").stdout)["found"] == []
    assert run(capsys, RTMR1[8:40]).code == 1  # from the middle of a value


def test_a_version_that_is_refused_now_is_found_and_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = published()
    fake.set_state("1.0", State.REVOKED, "CVE-2026-1")
    put(fake, here / "measurements")
    assert f"{NAME} 1.0 (serial 1, revoked: CVE-2026-1, a guest of it is refused)" in run(capsys, RTMR1).stdout
    # Its statement may be gone: the release is still known by its digest, and the rest is said not to be searched.
    (here / f"measurements/{NAME}/1.0/statement.dsse.json").unlink()
    outcome = run(capsys, RTMR1)
    assert outcome.code == 0
    assert f"{NAME} 1.0 (" not in outcome.stdout
    assert f"warning: {NAME} 1.0 counts no more and was not searched: " in outcome.stderr
    release = fake.index().versions[0].release_sha256.hex()
    assert f"  release {release}" in run(capsys, release).stdout


def test_under_a_trusted_root_the_first_line_says_verified(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(here / "measurements") as (address, _):
        (here / "root.json").write_bytes((here / "measurements/root.json").read_bytes())
        outcome = run(capsys, RTMR1, "--trust", "root.json", "--index", address)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.startswith(f"in {address}, verified under the root that you trust (SHA-256 ")
    assert "first use of this root here" in outcome.stderr
    told = json.loads(run(capsys, RTMR1, "--trust", "measurements/root.json", "--json").stdout)
    assert (told["verified"], told["notes"]) == (True, [])
    assert json.loads(run(capsys, RTMR1, "--json").stdout)["verified"] is False


def test_an_index_that_ended_is_searched_with_a_warning(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.cli.lookup.time.time", lambda: NOW + 31 * DAY)
    outcome = run(capsys, RTMR1, "--trust", "measurements/root.json")
    assert outcome.code == 0
    assert "warning: timestamp was valid until" in outcome.stderr


@pytest.mark.parametrize("trust", [(), ("--trust", "root.json", "--index", "measurements")], ids=["own", "trusted"])
def test_a_repository_that_was_altered_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], trust: tuple[str, ...]
) -> None:
    (here / "root.json").write_bytes((here / "measurements/root.json").read_bytes())
    path = here / f"measurements/{NAME}/1.1/release.json"
    path.write_bytes(path.read_bytes().replace(b'"serial":2', b'"serial":3'))
    outcome = run(capsys, RTMR1, *trust)
    assert outcome.code == 8
    assert "statement-digest" in outcome.stderr
    assert RTMR1 not in outcome.stdout


def test_another_root_does_not_vouch_for_the_repository(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top, online = role(2, "x", "y"), role(1, "z")
    other = Fake({"root": top, "targets": top, "snapshot": online, "timestamp": online}, signers=("x", "y", "z"))
    (here / "other.json").write_bytes(other.trusted)
    outcome = run(capsys, RTMR1, "--trust", "other.json", "--index", "measurements")
    assert (outcome.code, outcome.stdout) == (8, "")
    assert "index-signatures" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("abc",), "got 3 hex digits, expected 8 to 96"),
        (("a" * 97,), "got 97 hex digits, expected 8 to 96"),
        (("rtmr1",), "got `rtmr1`, expected hex digits"),
        (("ab" * 8, "--index", "measurements"), "--index needs --trust"),
        (("ab" * 8, "--in", "measurements", "--trust", "x"), "--in and --trust are both given"),
        (("ab" * 8, "--in", "empty"), "empty has no tuf/1.root.json"),
    ],
)
def test_a_wrong_word_is_a_usage_error(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    outcome = run(capsys, *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr


def test_digits_are_taken_as_tools_print_them() -> None:
    assert digits_of(" SHA384:ABCDEF01 ") == "abcdef01"
    assert digits_of("0xabcdef01") == "abcdef01"
    with pytest.raises(UsageError):
        digits_of("ab cd ef 01")
