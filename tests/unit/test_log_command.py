"""`log`: what was published is logged once, proven and audited; and what `publish check` says of a log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import logged_fake
import pytest
from published_fake import NOW, Fake, signer
from test_cli_main import Outcome

from privml.publish import check
from privml.publish import log as logs
from privml.statement import logpolicy
from privml.statement.tlog import Checkpoint, Note, Proof

ORIGIN = "example.org/measurements"
RELEASE = "demo-cpu/1.0/release.json"


class Desk:
    """A working directory with published measurements in `measurements`, and private keys in PEM."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.published = Fake()
        self.folder = Path("measurements")
        for name in ("log", "other", "p256-log"):
            Path(f"{name}.pem").write_bytes(pem(name))

    def write(self) -> None:
        for path, data in self.published.files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)

    def publish(self, version: str) -> None:
        self.published.publish(version)
        self.write()

    def run(self, *words: str) -> Outcome:
        return Outcome(self.capsys, "log", *words)

    def append(self, *words: str, key: str = "log") -> Outcome:
        return self.run("append", "--key", f"{key}.pem", *words)

    @property
    def log(self) -> logs.Log:
        found = logs.read(self.folder)
        assert found is not None
        return found


def pem(name: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return signer(name)._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """A repository with one version and a log of it."""
    monkeypatch.chdir(tmp_path)
    made = Desk(capsys)
    made.publish("1.0")
    assert made.append("--origin", ORIGIN).code == 0
    return made


def test_everything_that_was_signed_is_logged_once_in_a_fixed_order(desk: Desk) -> None:
    assert [entry.path for entry in desk.log.entries] == ["tuf/1.root.json", RELEASE, "demo-cpu/index.json"]
    before = {path: path.read_bytes() for path in desk.folder.rglob("log/**/*") if path.is_file()}
    again = desk.append()
    assert (again.code, again.stdout.splitlines()[0]) == (0, "measurements: 3 entries, nothing new")
    assert {path: path.read_bytes() for path in before} == before
    assert desk.run("audit").stdout.splitlines()[0] == "measurements: 3 entries, all there"


def test_a_further_version_is_appended_and_no_tile_changes(desk: Desk) -> None:
    kept = (desk.folder / logs.CHECKPOINT).read_bytes()
    Path("kept").write_bytes(kept)
    tiles = {path: path.read_bytes() for path in desk.folder.glob("log/tile/**/*") if path.is_file()}
    desk.publish("1.1")
    audited = desk.run("audit", "--since", "kept")
    assert audited.code == 8
    assert audited.stdout.splitlines() == [
        "demo-cpu/1.1/release.json: not in the log",
        "demo-cpu/index.json: not in the log",
    ]
    assert desk.append().code == 0
    assert {path: path.read_bytes() for path in tiles} == tiles
    audited = desk.run("audit", "--since", "kept", "--key", desk.log.key.text)
    assert (audited.code, audited.stdout.splitlines()[-1]) == (0, "it continues the checkpoint of 3 entries")
    assert json.loads(desk.run("audit", "--json").stdout) == {
        "entries": 5,
        "key": desk.log.key.text,
        "wrong": [],
        "unlogged": [],
    }


def test_two_people_make_the_same_log(desk: Desk) -> None:
    desk.publish("1.1")
    shutil.copytree("measurements", "theirs")
    assert desk.append().code == desk.run("append", "theirs", "--key", "log.pem").code == 0
    ours, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        for folder in ("measurements", "theirs")
    )
    assert ours == theirs


def test_a_proof_shows_a_release_without_the_log(desk: Desk) -> None:
    assert desk.run("prove", "demo-cpu@1.0", "--output", "proof").code == 0
    assert desk.run("prove", "demo-cpu@1.0").stdout.encode() == Path("proof").read_bytes()
    key = desk.log.key.text
    (Path("theirs") / RELEASE).parent.mkdir(parents=True)
    shutil.copy(desk.folder / RELEASE, Path("theirs") / RELEASE)
    words = ("prove", "demo-cpu@1.0", "--in", "theirs", "--check", "proof", "--key", key)
    found = desk.run(*words)
    assert (found.code, found.stdout) == (0, f"demo-cpu@1.0 is number 1 of the 3 entries of {ORIGIN}\n")
    (Path("theirs") / RELEASE).write_bytes(b"{}")
    found = desk.run(*words)
    assert found.code == 9
    assert "does not lead from the entry to the root" in found.stderr
    assert desk.run("prove", "demo-cpu@1.0", "--check", "proof", "--output", "x").code == 2


def test_what_is_not_in_the_log_has_no_proof(desk: Desk) -> None:
    desk.publish("1.1")
    found = desk.run("prove", "demo-cpu@1.1")
    assert found.code == 8
    assert "demo-cpu/1.1/release.json is not in the log" in found.stderr


@pytest.mark.parametrize("verb", ["append", "audit"])
def test_a_published_file_that_changed_or_is_gone_is_found_and_nothing_is_added(desk: Desk, verb: str) -> None:
    for change, what in ((b"{}", "got sha256"), (None, "gone")):
        if change is None:
            (desk.folder / RELEASE).unlink()
        else:
            (desk.folder / RELEASE).write_bytes(change)
        found = desk.append() if verb == "append" else desk.run("audit")
        assert found.code == 8
        assert f"{RELEASE}: {what}" in found.stdout + found.stderr
        assert len(desk.log.raw) == 3


def test_an_index_that_went_back_is_not_the_one_that_was_logged_last(desk: Desk) -> None:
    old = (desk.folder / "demo-cpu/index.json").read_bytes()
    desk.publish("1.1")
    assert desk.append().code == 0
    (desk.folder / "demo-cpu/index.json").write_bytes(old)
    found = desk.run("audit")
    assert (found.code, found.stdout) == (8, "demo-cpu/index.json: not in the log\n")


def test_a_log_that_was_cut_or_begun_again_does_not_continue_what_was_kept(desk: Desk) -> None:
    desk.publish("1.1")
    assert desk.append().code == 0
    Path("kept").write_bytes((desk.folder / logs.CHECKPOINT).read_bytes())
    shutil.rmtree(desk.folder / "log")
    shutil.rmtree(desk.folder / "demo-cpu/1.1")
    assert desk.append("--origin", ORIGIN).code == 0
    found = desk.run("audit", "--since", "kept")
    assert found.code == 8
    assert "do not continue the checkpoint of 5 entries" in found.stdout
    # As long as the one before, with another entry.
    (desk.folder / "demo-cpu/1.2").mkdir()
    (desk.folder / "demo-cpu/1.2/release.json").write_bytes(b"x")
    (desk.folder / "demo-cpu/1.3").mkdir()
    (desk.folder / "demo-cpu/1.3/release.json").write_bytes(b"y")
    assert desk.append().code == 0
    assert len(desk.log.raw) == 5
    assert "do not continue" in desk.run("audit", "--since", "kept").stdout


def test_another_key_or_origin_is_refused(desk: Desk) -> None:
    desk.publish("1.1")
    assert desk.append(key="other").code == 8
    assert desk.append("--origin", "example.org/other").code == 8
    assert desk.append(key="p256-log").code == 2
    shutil.copytree("measurements", "theirs")
    shutil.rmtree("theirs/log")
    assert desk.run("append", "theirs", "--key", "other.pem", "--origin", ORIGIN).code == 0
    found = desk.run("audit", "theirs", "--key", desk.log.key.text)
    assert found.code == 9
    assert "expected example.org/measurements+" in found.stderr


def test_a_log_is_begun_with_a_name_and_needed_by_the_others(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "log")
    assert desk.append().code == 2
    assert "--origin is missing" in desk.append().stderr
    for words in (("audit",), ("prove", "demo-cpu@1.0")):
        assert desk.run(*words).code == 2
    Path("empty").mkdir()
    assert desk.run("append", "empty", "--key", "log.pem", "--origin", ORIGIN).stdout == "empty: nothing to log\n"


def damage(path: str) -> None:
    data = bytearray(Path("measurements", path).read_bytes())
    data[len(data) // 2] ^= 1
    Path("measurements", path).write_bytes(bytes(data))


PARTS = ("log/checkpoint", "log/key", "log/tile/0/000.p/5", "log/tile/entries/000.p/5")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("verb", ["append", "audit", "prove"])
def test_a_damaged_log_is_malformed_for_every_verb(desk: Desk, part: str, verb: str) -> None:
    desk.publish("1.1")
    assert desk.append().code == 0
    damage(part)
    words = {"append": ("append", "--key", "log.pem"), "audit": ("audit",), "prove": ("prove", "demo-cpu@1.0")}[verb]
    assert desk.run(*words).code == 9
    Path("measurements", part).unlink()
    expected = 2 if part == "log/checkpoint" else 9
    assert desk.run(*words).code == expected


def test_what_is_not_a_part_of_the_log_is_found(desk: Desk) -> None:
    desk.publish("1.1")
    assert desk.append().code == 0
    damage("log/tile/0/000.p/3")
    (desk.folder / "log/tile/1").mkdir()
    for path in ("log/tile/1/000", "log/tile/0/000.p/6", "log/tile/0/000.p/0", "log/note", "log/tile/0/x000/000.p/3"):
        (desk.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (desk.folder / path).write_bytes(b"x")
    found = desk.run("audit")
    assert found.code == 8
    assert found.stdout.splitlines() == [
        "log/note: not a part of the log",
        "log/tile/0/000.p/0: not a part of the log",
        "log/tile/0/000.p/3: not a part of the log",
        "log/tile/0/000.p/6: not a part of the log",
        "log/tile/0/x000/000.p/3: not a part of the log",
        "log/tile/1/000: not a part of the log",
    ]


def test_a_log_of_more_than_a_tile_is_read_and_audited(desk: Desk) -> None:
    for number in range(300):
        place = desk.folder / f"demo-cpu/0.{number}/release.json"
        place.parent.mkdir()
        place.write_bytes(str(number).encode())
    assert json.loads(desk.append("--json").stdout)["entries"] == 303
    assert (desk.folder / "log/tile/1/000.p/1").is_file()
    assert desk.run("audit").code == 0
    assert desk.run("prove", "demo-cpu@0.299", "--output", "proof").code == 0
    assert desk.run("prove", "demo-cpu@0.299", "--check", "proof").code == 0


def gate(before: Path | None = None) -> check.Findings:
    return check.check(Path("measurements"), NOW, before)


def about_the_log(found: check.Findings) -> list[str]:
    """The fake's files are no real locks, which the gate says too."""
    return [line for line in found.wrong if "lock.json" not in line]


def test_the_gate_knows_the_log_and_warns_of_what_is_not_in_it(desk: Desk) -> None:
    found = gate()
    assert about_the_log(found) == []
    assert not [line for line in found.soon if "log" in line]
    desk.publish("1.1")
    found = gate()
    assert about_the_log(found) == []
    assert found.soon[-2:] == ["demo-cpu/1.1/release.json: not in the log", "demo-cpu/index.json: not in the log"]


def test_the_gate_wants_the_log_to_continue(desk: Desk) -> None:
    desk.publish("1.1")
    assert desk.append().code == 0
    before = Path("before")
    shutil.copytree("measurements", before)
    assert about_the_log(gate(before)) == []
    shutil.rmtree(desk.folder / "log")
    assert "log: gone, expected the log to continue" in about_the_log(gate(before))
    assert desk.append("--origin", "example.org/other").code == 0
    assert [line for line in about_the_log(gate(before)) if line.startswith("log/key: got example.org/other")]
    shutil.rmtree(desk.folder / "log")
    (desk.folder / "demo-cpu/1.1/release.json").unlink()
    assert desk.append("--origin", ORIGIN).code == 0
    assert [line for line in about_the_log(gate(before)) if "do not continue the checkpoint of 5" in line]


def test_the_gate_refuses_a_damaged_log(desk: Desk) -> None:
    damage("log/tile/0/000.p/3")
    assert about_the_log(gate()) == ["log/tile/0/000.p/3: not the tile of the entries"]


def test_the_checkpoint_is_one_of_the_public_format(desk: Desk) -> None:
    data = (desk.folder / logs.CHECKPOINT).read_bytes()
    assert data.decode().splitlines()[:2] == [ORIGIN, "3"]
    assert Checkpoint.read(data, desk.log.key).root == desk.log.root(3)
    assert json.loads(desk.log.raw[1]) == {
        "format": "privml-log-entry/v1",
        "path": RELEASE,
        "sha256": desk.log.entries[1].sha256.hex(),
    }


# --- proofs next to releases ----------------------------------------------------------------------------------------

PROOF = "demo-cpu/1.0/statement.tlog-proof"


def test_append_writes_the_proof_of_each_release_and_keeps_it(desk: Desk) -> None:
    place = desk.folder / PROOF
    first = place.read_bytes()
    assert desk.run("prove", "demo-cpu@1.0").stdout.encode() == first
    desk.publish("1.1")
    assert desk.append().code == 0
    assert place.read_bytes() == first
    proof = Proof.decode((desk.folder / "demo-cpu/1.1/statement.tlog-proof").read_bytes())
    assert (proof.index, proof.checkpoint) == (3, desk.log.checkpoint)
    assert desk.append().stdout.splitlines()[0] == "measurements: 5 entries, nothing new"
    assert desk.run("prove", "demo-cpu@1.0", "--check", str(place)).code == 0


def test_a_proof_that_is_gone_or_damaged_is_found_and_written_again(desk: Desk) -> None:
    place = desk.folder / PROOF
    good = place.read_bytes()
    for change, what in ((None, "no such file"), (good[:-4], ""), (b"", "expected `c2sp.org/tlog-proof@v1`")):
        place.unlink() if change is None else place.write_bytes(change)
        found = desk.run("audit")
        assert found.code == 8
        assert f"{PROOF}: " in found.stdout and what in found.stdout
        assert desk.append().stdout.splitlines()[0] == "measurements: 3 entries"
        assert place.read_bytes() == good


def test_a_proof_of_another_log_with_the_same_key_is_found(desk: Desk) -> None:
    """The owner of the key showed somebody a second log."""
    shutil.copytree("measurements", "theirs")
    shutil.rmtree("theirs/log")
    Path("theirs/other/0.1").mkdir(parents=True)
    Path("theirs/other/0.1/release.json").write_bytes(b"{}")
    assert desk.run("append", "theirs", "--key", "log.pem", "--origin", ORIGIN).code == 0
    shutil.copy(Path("theirs") / PROOF, desk.folder / PROOF)
    found = desk.run("audit")
    assert found.code == 8
    assert f"{PROOF}: proof: it is under a checkpoint of 4 entries that this log never had" in found.stdout
    assert f"{PROOF}: proof: it is under a checkpoint of 4 entries" in " ".join(gate().wrong)


def test_cosignatures_of_the_newest_checkpoint_come_into_the_proofs(desk: Desk) -> None:
    place = desk.folder / logs.CHECKPOINT
    note = Note.decode(place.read_bytes())
    line = logged_fake.cosignature("w1", note.text)
    place.write_bytes(place.read_bytes() + line.encode())
    assert desk.append().code == 0
    kept = (desk.folder / PROOF).read_bytes()
    assert kept.endswith(line.encode())
    # A newer checkpoint without cosignatures replaces none that has some.
    desk.publish("1.1")
    assert desk.append().code == 0
    assert (desk.folder / PROOF).read_bytes() == kept
    assert desk.run("audit").code == 0
    proof = Proof.decode(kept)
    policy = logpolicy.decode(
        f"log {desk.log.key.text}\nwitness w {logged_fake.key('w1').text}\nquorum w\n".encode(), "policy"
    )
    state, witnesses = policy.check(proof, desk.log.raw[1])
    assert (state.size, witnesses, policy.met(witnesses)) == (3, ("w",), True)


def test_the_gate_checks_proofs_and_lets_them_be_replaced(desk: Desk) -> None:
    before = Path("before")
    shutil.copytree("measurements", before)
    place = desk.folder / PROOF
    good = place.read_bytes()
    place.unlink()
    found = gate(before)
    assert about_the_log(found) == []
    assert f"{PROOF}: no such file" in found.soon
    place.write_bytes(good[:-5] + b"AAA=\n")
    assert [line for line in about_the_log(gate(before)) if line.startswith(f"{PROOF}: ")]
    place.write_bytes(good)
    (desk.folder / "demo-cpu/1.1").mkdir()
    shutil.copy(place, desk.folder / "demo-cpu/1.1/statement.tlog-proof")
    assert about_the_log(gate()) == ["demo-cpu/1.1/statement.tlog-proof: nothing names it"]


def test_a_proof_without_a_log_is_found(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "log")
    assert about_the_log(gate()) == [f"{PROOF}: nothing names it"]
