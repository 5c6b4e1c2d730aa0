"""The verb `publish` on instant builds: begin, publish, revoke, renew, replace keys, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attestation_samples as samples
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from published_fake import NAME, NOW, build, signer
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures
from test_repro_compare import opener, output, predicted, sealed

from privml.base import dsse
from privml.base.errors import MeasurementError, Refused
from privml.image.target import resolve
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock
from privml.output.volumekey import VolumeKey
from privml.publish import changes, check, legs, roles, version
from privml.publish.changes import Place
from privml.publish.signing import Signing
from privml.recipe.loader import load, shipped
from privml.repro import rebuilt
from privml.repro.legs import Inputs, Legs
from privml.statement import index as indexes
from privml.statement import intoto, metadata, release
from privml.statement.launch import FilledBy
from privml.store.objects import Store

DAY = 86400
ROLES = """format = "privml-roles/v1"
[root]
threshold = 2
keys = ["keys/root-1.pub", "keys/root-2.pub", "keys/p384-root-3.pub"]
[online]
threshold = 1
keys = ["keys/online.pub"]
[images.demo-cpu]
threshold = 2
keys = ["keys/alice.pub", "keys/bob.pub", "keys/p256-carol.pub"]
"""
V = f"{NAME}/1.0"
ROOTS, PUBLISHERS = ("root-1", "root-2"), ("alice", "bob")
NAMES = (*ROOTS, "p384-root-3", *PUBLISHERS, "p256-carol", "online", "dora", "emil", "online-2", "root-4")


class Project:
    """A checkout whose images are published. ``bend`` changes leg a or b before they are compared."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str] | None) -> None:
        self.folder = folder
        self.capsys = capsys
        self.bend: dict[str, Callable[[Path], None]] = {}
        self.builds = 0
        self.now = NOW

    def keys(self, *names: str) -> list[str]:
        return [word for name in names for word in ("--key", f"../private/{name}")]

    def run(self, *words: str, keys: tuple[str, ...] = ()) -> Outcome:
        assert self.capsys is not None
        return Outcome(self.capsys, "publish", *words, *self.keys(*keys))

    def done(self, *words: str, keys: tuple[str, ...] = ()) -> Outcome:
        outcome = self.run(*words, keys=keys)
        assert outcome.code == 0, outcome.stdout + outcome.stderr
        return outcome

    def version(self, number: str, *words: str) -> Outcome:
        return self.run(NAME, "--version", number, *words, keys=(*PUBLISHERS, "online"))

    def publish(self, number: str) -> None:
        outcome = self.version(number)
        assert outcome.code == 0, outcome.stderr

    def verify(self, wanted: str = NAME) -> Outcome:
        words = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--allow-simulated", "../root.pem")
        return Outcome(
            self.capsys, "verify", "../doc.json", *words, "--trust", "../root.json", wanted, "--index", "measurements"
        )

    @property
    def index(self) -> indexes.Index:
        return indexes.decode((self.folder / f"measurements/{NAME}/index.json").read_bytes())

    def snapshot(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in (self.folder / "measurements").rglob("*")
            if path.is_file()
        }

    @contextmanager
    def two_legs(
        self, inputs: Inputs, store: Path, name: str, *, keep: Path | None = None, needed: int = 0
    ) -> Iterator[Legs]:
        self.builds += 1
        lock = read_lock(inputs.lock)
        found = []
        for leg in ("a", "b"):
            folder = output(self.folder.parent / f"leg-{self.builds}-{leg}")
            sealed(folder, name=name, recipe_sha256=load(inputs.recipe).digest, lock_sha256=lock.digest)
            predicted(folder, name=name)
            self.bend.get(leg, lambda _: None)(folder)
            found.append(folder)
        yield Legs(found[0], found[1], (), {})


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True)


def change_recipe() -> None:
    path = Path("recipes/demo-cpu.yaml")
    path.write_bytes(path.read_bytes() + b"# changed\n")


def commit_something() -> None:
    """A release names its commit, so the next one has other bytes."""
    Path("README").write_text("changed")
    git("add", "README")
    git("commit", "-qm", "changed")


def prepared(folder: Path) -> None:
    """A committed checkout with recipes and public keys; next to it the private ones, and a caller's files."""
    (folder / "recipes").mkdir(parents=True)
    for name in ("demo-cpu.yaml", "demo-cpu.lock.json", "tdx-min.yaml", "tools.lock.json"):
        shutil.copy(shipped() / name, folder / "recipes")
    shutil.copytree(shipped() / "platforms", folder / "recipes/platforms")
    (folder / "keys").mkdir()
    (folder.parent / "private").mkdir()
    for name in NAMES:
        key = signer(name)._key
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder.parent / "private" / name).write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"keys/{name}.pub").write_bytes(public)
    (folder / "roles.toml").write_text(ROLES)
    (folder.parent / "root.pem").write_bytes(samples.sim.root_pem())
    (folder.parent / "doc.json").write_bytes(samples.document().encode())
    (folder.parent / "state").mkdir()
    git("-C", str(folder), "init", "-q", "--template=")
    git("-C", str(folder), "add", "-A")
    git("-C", str(folder), "commit", "-qm", "begin")


@contextmanager
def extracted(_: object, path: Path, part: Any) -> Iterator[Path]:
    with opener(path, part) as tree:
        yield tree


def in_project(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str] | None) -> Project:
    """Work in a prepared folder, with instant builds."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    made = Project(folder, capsys)
    monkeypatch.setattr(rebuilt, "two_legs", made.two_legs)
    monkeypatch.setattr(rebuilt, "bring_all", lambda *_, **__: None)
    monkeypatch.setattr(rebuilt, "tools_tree", lambda *_: SimpleNamespace())
    monkeypatch.setattr(Workplace, "store", Store(folder.parent / "store"))
    monkeypatch.setattr("privml.image.workplace.check", lambda *_, **__: None)
    monkeypatch.setattr("privml.repro.images.extracted", extracted)
    monkeypatch.setattr(legs, "is_installed", lambda _: True)  # this checkout may have changes
    for verb in ("publish", "endorse", "verify"):
        monkeypatch.setattr(f"privml.cli.{verb}.time.time", lambda: made.now)
    return made


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkout before its first root, and one with version 1.0, made once."""
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after") / "x"
    prepared(before / "project")
    shutil.copytree(before, after)
    with pytest.MonkeyPatch.context() as patch:
        made = in_project(after / "project", patch, None)
        place = Place(Path("measurements"), Signing([signer(name) for name in (*ROOTS, *PUBLISHERS, "online")]), NOW)
        place.write(changes.new_roles(place, roles.read(Path("roles.toml"))))
        shutil.copy("measurements/root.json", "../root.json")
        build = legs.build_twice(Workplace(), resolve(NAME), [Path("measurements")])
        place.write(changes.new_version(place, NAME, "1.0", build))
        assert made.builds == 1
    return {"before": before, "after": after}


def copied(template: Path, folder: Path) -> None:
    """A copy to work in; what no test changes is shared."""

    def copy(source: str, target: str) -> None:
        shared = any(part in source for part in ("/.git/objects/", "/private/", "/keys/", "/platforms/"))
        (os.link if shared else shutil.copy)(source, target)

    shutil.copytree(template, folder, copy_function=copy)


@pytest.fixture
def project(
    templates: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    copied(templates["before"], tmp_path / "at")
    return in_project(tmp_path / "at/project", monkeypatch, capsys)


@pytest.fixture
def begun(
    templates: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    """A repository with one version; the caller has its first root."""
    copied(templates["after"], tmp_path / "at")
    made = in_project(tmp_path / "at/project", monkeypatch, capsys)
    made.builds = 1
    return made


def test_a_repository_is_begun_and_a_version_published(project: Project) -> None:
    outcome = project.done("root", "roles.toml", keys=(*ROOTS, "online"))
    assert outcome.stdout.splitlines() == [
        f"measurements/{path}"
        for path in (
            "tuf/1.root.json",
            "root.json",
            "tuf/1.targets.json",
            "tuf/1.snapshot.json",
            "tuf/timestamp.json",
        )
    ]
    project.done("check")
    outcome = project.version("1.0")
    assert outcome.code == 0, outcome.stderr
    assert f"measurements/{NAME}/1.0/release.json" in outcome.stdout.splitlines()
    project.done("check")


def test_a_version_is_published_whole_and_relied_on_without_building(begun: Project) -> None:
    assert sorted(path.name for path in Path(f"measurements/{NAME}/1.0").iterdir()) == [
        "lock.json",
        "manifest.json",
        "provenance.dsse.json",
        "recipe.yaml",
        "release.json",
        "sbom.cdx.json",
        "statement.dsse.json",
        "tools.lock.json",
    ]
    made = release.decode(Path(f"measurements/{NAME}/1.0/release.json").read_bytes())
    assert made.commit == subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert (made.serial, begun.index.versions[0].release_sha256) == (1, made.sha256)
    outcome = begun.verify()
    assert outcome.code == 10, outcome.stdout
    assert "against version 1.0 (serial 1), signed by 2 of 3 publishers (" in outcome.stdout.splitlines()[0]
    assert begun.done("check").stdout == "measurements: 1 versions and 15 files are as they were signed\n"


def test_a_revoked_version_is_refused_and_stays_so(begun: Project) -> None:
    keys = (*PUBLISHERS, "online")
    assert begun.run("state", f"{NAME}@1.0", "revoked", keys=keys).code == 2
    begun.done("state", f"{NAME}@1.0", "revoked", "--reason", "a hole", keys=keys)
    for wanted in (NAME, f"{NAME}@1.0"):
        outcome = begun.verify(wanted)
        assert outcome.code == 8
        assert "version-revoked" in outcome.stdout
        assert "1.0 is revoked: a hole" in outcome.stdout
    before = begun.snapshot()
    outcome = begun.run("state", f"{NAME}@1.0", "current", keys=keys)
    assert outcome.code == 8
    assert "revoked, which is final" in outcome.stderr
    assert begun.snapshot() == before
    begun.done("check")


def test_the_minimum_serial_only_rises(begun: Project) -> None:
    keys = (*PUBLISHERS, "online")
    assert "leaves no version that counts" in begun.run("minimum", NAME, "2", keys=keys).stderr
    commit_something()
    begun.publish("1.1")
    begun.done("minimum", NAME, "2", keys=keys)
    outcome = begun.verify(f"{NAME}@1.0")
    assert (outcome.code, "version-below-minimum" in outcome.stdout) == (8, True)
    assert begun.verify().code == 10
    for serial in ("1", "2"):
        assert "it only rises" in begun.run("minimum", NAME, serial, keys=keys).stderr


def test_a_superseded_version_names_its_successor(begun: Project) -> None:
    keys = (*PUBLISHERS, "online")
    commit_something()
    begun.publish("1.1")
    assert (
        "expected a later version: 1.1"
        in begun.run("state", f"{NAME}@1.0", "superseded", "--replaced-by", "1.0", keys=keys).stderr
    )
    begun.done("state", f"{NAME}@1.0", "superseded", "--replaced-by", "1.1", keys=keys)
    outcome = begun.verify(f"{NAME}@1.0")
    assert outcome.code == 10
    assert "note: 1.0 is superseded by 1.1" in outcome.stdout


# --- what is refused ------------------------------------------------------------------------------------------------


def dirty(project: Project) -> None:
    change_recipe()


def untracked(project: Project) -> None:
    Path("recipes/new.txt").write_text("x")


def staged(project: Project) -> None:
    Path("new.txt").write_text("x")
    git("add", "new.txt")


def no_git(project: Project) -> None:
    shutil.rmtree(".git")


def differing(project: Project) -> None:
    project.bend["b"] = lambda folder: (folder / "firmware.fd").write_bytes(b"other")


def other_prediction(project: Project) -> None:
    project.bend["b"] = lambda folder: predicted(folder, name=NAME, launches=samples.PREDICATE.launches[:1])


def both(bend: Callable[[Path], Any]) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        project.bend = {"a": bend, "b": bend}

    return change


def resealed(**changes: Any) -> Callable[[Path], None]:
    def bend(folder: Path) -> None:
        lock = read_lock(Path("recipes/demo-cpu.lock.json"))
        digest = load(Path("recipes/demo-cpu.yaml")).digest
        sealed(folder, **{"name": NAME, "recipe_sha256": digest, "lock_sha256": lock.digest, **changes})
        predicted(folder, name=NAME, variant=changes.get("variant", "production"))

    return bend


def unpinned(folder: Path) -> None:
    first = samples.PREDICATE.launches[0]
    predicted(
        folder, name=NAME, launches=(replace(first, registers={**first.registers, "mrtd": FilledBy("a cloud")}),)
    )


REFUSED: dict[str, tuple[Callable[[Project], None], int, str]] = {
    "changed sources": (dirty, 8, "has changes that are not committed: recipes/demo-cpu.yaml"),
    "untracked sources": (untracked, 8, "has changes that are not committed: recipes/new.txt"),
    "staged sources": (staged, 8, "has changes that are not committed: new.txt"),
    "no checkout": (no_git, 8, "git failed"),
    "two builds differ": (differing, 1, "two builds differ"),
    "two predictions differ": (other_prediction, 1, "differ"),
    "no prediction": (
        both(lambda folder: (folder / "prediction.json").unlink()),
        7,
        "prediction.json does not exist",
    ),
    "a development image": (both(resealed(variant="development")), 8, "variant got development, expected production"),
    "a refreshed image": (both(resealed(refreshed=True)), 8, "lock got refreshed, expected committed"),
    "an image of another name": (both(resealed(name="tdx-min")), 8, "the build is of tdx-min, expected demo-cpu"),
    "an unpinned register": (both(unpinned), 8, "MRTD of qemu-11-q35, 2 vcpus, 2048 MiB has no value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_not_be_published_leaves_no_trace(case: str, begun: Project) -> None:
    spoil, code, message = REFUSED[case]
    spoil(begun)
    before = begun.snapshot()
    outcome = begun.version("1.1")
    assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
    assert message in outcome.stderr
    assert begun.snapshot() == before


def test_sources_that_change_during_the_builds_are_not_published(begun: Project) -> None:
    for change, message in ((change_recipe, "not committed"), (commit_something, "changed while it was built")):
        begun.bend["b"] = lambda _, change=change: change()  # type: ignore[misc]
        outcome = begun.version("1.1")
        assert (outcome.code, message in outcome.stderr) == (8, True)
        git("checkout", "-q", "recipes")
    begun.bend = {leg: resealed(lock_sha256="0" * 64) for leg in ("a", "b")}
    assert "changed while it was built" in begun.version("1.1").stderr


def test_a_prediction_without_a_machine_or_of_another_manifest_is_not_published() -> None:
    for change, error, message in (
        ({"launches": ()}, Refused, "has no machine"),
        ({"manifest_sha256": bytes(32)}, MeasurementError, "is not of its manifest"),
        ({"variant": "development"}, Refused, "variant of the prediction got development"),
    ):
        made = build()
        statement = intoto.decode(made.statement)
        bent = replace(statement, predicate=replace(statement.predicate, **change))
        with pytest.raises(error, match=message):
            version.check(replace(made, statement=intoto.encode(bent)))
    with pytest.raises(MeasurementError, match="is not of its manifest"):
        version.check(replace(made, statement=intoto.encode(replace(statement, subjects=statement.subjects[:1]))))


def test_a_version_with_the_same_bytes_is_there_already_and_one_with_others_is_refused(begun: Project) -> None:
    before = begun.snapshot()
    assert "is published already, with the same bytes" in begun.version("1.0").stdout
    assert begun.snapshot() == before
    outcome = begun.version("1.0", "--serial", "2")
    assert (outcome.code, "is published with other bytes" in outcome.stderr) == (8, True)
    commit_something()
    outcome = begun.version("1.0")
    assert (outcome.code, "is published with other bytes" in outcome.stderr) == (8, True)
    assert begun.snapshot() == before


def test_a_serial_that_goes_back_is_refused(begun: Project) -> None:
    begun.run(NAME, "--version", "1.1", "--serial", "7", keys=(*PUBLISHERS, "online"))
    assert [entry.serial for entry in begun.index.versions] == [1, 7]
    for serial in ("1", "6", "7"):
        outcome = begun.version("1.2", "--serial", serial)
        assert (outcome.code, f"serial {serial} goes back, expected at least 8" in outcome.stderr) == (8, True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("alice", "online"), "demo-cpu needs 2 signatures: got 1 of its keys"),
        (("alice", "bob"), "snapshot needs 1 signatures: got 0 of its keys"),
        (("root-1", "root-2", "online"), "demo-cpu needs 2 signatures: got 0 of its keys"),
        (("alice", "alice", "online"), "demo-cpu needs 2 signatures: got 1 of its keys"),
    ],
)
def test_too_few_keys_are_said_before_the_builds(keys: tuple[str, ...], message: str, begun: Project) -> None:
    builds = begun.builds
    outcome = begun.run(NAME, "--version", "1.1", keys=keys)
    assert (outcome.code, begun.builds) == (8, builds)
    assert message in outcome.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((NAME, "--version", "../1"), 2, "expected NAME@VERSION"),
        (("nothing", "--version", "1"), 3, "there is no recipe"),
        (("tdx-min", "--version", "1"), 8, "nobody may publish tdx-min here"),
        ((NAME,), 2, "`--version` is missing"),
        (("state", NAME, "revoked"), 2, "expected NAME@VERSION"),
        (("state", f"{NAME}@9", "revoked", "--reason", "x"), 2, "is not published, expected one of 1.0"),
        (("state", "tdx-min@9", "revoked", "--reason", "x"), 8, "nobody may publish tdx-min"),
        (("refresh", "--in", "nowhere"), 2, "has no root"),
        (("check", "nowhere"), 9, "not a repository"),
        (("root", "nowhere.toml"), 2, "cannot be read"),
        (("refresh", "--key", "nowhere.pem"), 5, "cannot be read"),
    ],
)
def test_wrong_words(words: tuple[str, ...], code: int, message: str, begun: Project) -> None:
    before = begun.snapshot()
    outcome = begun.run(*words, keys=(*PUBLISHERS, "online")) if words[0] != "check" else begun.run(*words)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr
    assert begun.snapshot() == before


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (f"{NAME}/index.json", 8, "index-digest"),
        ("tuf/timestamp.json", 9, "does not verify"),
        ("tuf/1.root.json", 9, "does not verify"),
        (f"tuf/1.{NAME}.json", 8, "index-digest"),
    ],
)
def test_nobody_signs_on_top_of_a_file_that_was_altered(path: str, code: int, message: str, begun: Project) -> None:
    """Who may write the folder, but has no key, could else have a revocation taken back by the next signature."""
    keys = (*ROOTS, *PUBLISHERS, "online")
    place = Path("measurements") / path
    data = place.read_bytes()
    place.write_bytes(
        data.replace(b'"current"', b'"revoked"')
        if "index" in path
        else data.replace(b'"2027', b'"2028').replace(b'"2026', b'"2028')
    )
    assert place.read_bytes() != data
    before = begun.snapshot()
    for words in (
        (NAME, "--version", "1.1"),
        ("state", f"{NAME}@1.0", "superseded"),
        ("minimum", NAME, "1"),
        ("refresh",),
        ("root", "roles.toml"),
    ):
        outcome = begun.run(*words, keys=keys)
        assert (outcome.code, message in outcome.stderr) == (code, True), (words, outcome.stderr)
        assert begun.snapshot() == before


def test_nobody_signs_on_top_of_an_older_copy_than_seen(begun: Project) -> None:
    """Everything in it was signed; but what was revoked since would count again."""
    keys = (*PUBLISHERS, "online")
    shutil.copytree("measurements", "../older")
    begun.done("state", f"{NAME}@1.0", "revoked", "--reason", "a hole", keys=keys)
    shutil.rmtree("measurements")
    shutil.move("../older", "measurements")
    for words in ((NAME, "--version", "1.1"), ("refresh",), ("state", f"{NAME}@1.0", "superseded")):
        outcome = begun.run(*words, keys=keys)
        assert (outcome.code, "index-rollback" in outcome.stderr) == (8, True)


@pytest.mark.parametrize("name", ["statement", "provenance"])
def test_new_publishers_sign_only_what_the_old_ones_signed(name: str, begun: Project) -> None:
    path = Path(f"measurements/{V}/{name}.dsse.json")
    old = dsse.decode(path.read_bytes())
    path.write_bytes(replace(old, payload=old.payload + b" ").encode())
    Path("roles.toml").write_text(ROLES.replace("alice", "dora").replace("bob", "emil"))
    before = begun.snapshot()
    outcome = begun.run("root", "roles.toml", keys=(*ROOTS, "dora", "emil", "online"))
    assert outcome.code == 9
    assert ("does not verify" if name == "statement" else "not the one that its release names") in outcome.stderr
    assert begun.snapshot() == before


def test_a_folder_of_a_version_that_the_index_does_not_know_is_refused(begun: Project) -> None:
    Path(f"measurements/{NAME}/1.1").mkdir()
    assert "is there, but not in the index" in begun.version("1.1").stderr


# --- keys and times -------------------------------------------------------------------------------------------------


def test_the_same_roles_change_nothing(begun: Project) -> None:
    before = begun.snapshot()
    assert "has these keys already" in begun.done("root", "roles.toml", keys=(*ROOTS, "online")).stdout
    assert begun.snapshot() == before


def test_every_key_can_be_replaced_and_callers_follow(begun: Project) -> None:
    Path("roles.toml").write_text(
        ROLES.replace("root-1", "root-4")
        .replace("online", "online-2", 1)
        .replace("keys/online.", "keys/online-2.")
        .replace("[online-2]", "[online]")
        .replace("alice", "dora")
        .replace("bob", "emil")
    )
    keys = ("root-1", "root-2", "root-4", "dora", "emil", "online-2")
    for absent in ("root-1", "root-4", "dora", "online-2"):
        before = begun.snapshot()
        outcome = begun.run("root", "roles.toml", keys=tuple(key for key in keys if key != absent))
        assert (outcome.code, "signatures: got" in outcome.stderr) == (8, True), absent
        assert begun.snapshot() == before
    begun.done("root", "roles.toml", keys=keys)
    assert metadata.decode(metadata.Root, Path("measurements/root.json").read_bytes(), "root").body.version == 2
    outcome = begun.verify()
    assert outcome.code == 10, outcome.stdout
    ids = sorted(signer(name).public.keyid for name in ("dora", "emil"))
    assert all(keyid[:16] in outcome.stdout.splitlines()[0] for keyid in ids)
    begun.done("check")
    assert "signatures: got 0" in begun.version("1.1").stderr


def test_an_image_with_versions_keeps_its_publishers(begun: Project) -> None:
    Path("roles.toml").write_text(ROLES.partition("[images")[0])
    outcome = begun.run("root", "roles.toml", keys=(*ROOTS, "online"))
    assert (outcome.code, "expected it to keep its publishers" in outcome.stderr) == (8, True)


def test_a_refresh_keeps_an_index_valid(begun: Project) -> None:
    begun.now = NOW + 31 * DAY
    assert "index-expired" in begun.verify().stdout
    assert "timestamp: valid until" in begun.run("check").stdout
    begun.done("refresh", keys=("online",))
    assert begun.verify().code == 10
    begun.done("check")


def test_what_a_refresh_could_not_renew_is_said(begun: Project) -> None:
    begun.now = NOW + 170 * DAY
    outcome = begun.done("refresh", keys=("online",))
    assert outcome.stderr.count("was not signed again: its keys are not among those given") == 2
    outcome = begun.done("refresh", keys=("online", *ROOTS, *PUBLISHERS))
    assert outcome.stderr == ""
    begun.now = NOW + 199 * DAY
    begun.done("check")
    begun.now = NOW + 310 * DAY
    outcome = begun.done("refresh", keys=("online", *ROOTS, *PUBLISHERS))
    assert "root is valid until" in outcome.stderr
    begun.done("root", "roles.toml", keys=(*ROOTS, "online"))
    assert metadata.decode(metadata.Root, Path("measurements/root.json").read_bytes(), "root").body.version == 2


def test_a_soon_end_is_a_warning(begun: Project) -> None:
    begun.now = NOW + 20 * DAY
    outcome = begun.done("check")
    assert "warning: timestamp: valid until 2026-12-18T11:06:40Z only; sign it again" in outcome.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "not TOML"),
        (ROLES.replace("/v1", "/v2"), "format: got `privml-roles/v2`"),
        (ROLES.replace("threshold = 1", "threshold = 2"), "online: role: threshold 2 of 1 keys"),
        (ROLES.replace("root-2", "root-1"), "is listed twice"),
        (ROLES.replace("demo-cpu", "root"), "not the name of an image"),
        (ROLES + "x = 1\n", "unknown field"),
        (ROLES.replace("keys/bob.pub", "keys/nobody.pub"), "cannot be read"),
        (ROLES.replace("keys/bob.pub", "roles.toml"), "not a public key"),
        (ROLES.replace("threshold = 1", "threshold = 1.0"), "expected an integer"),
    ],
)
def test_a_wrong_file_of_roles(text: str, message: str, project: Project) -> None:
    Path("roles.toml").write_text(text)
    outcome = project.run("root", "roles.toml", keys=(*ROOTS, "online"))
    assert outcome.code in (2, 5)
    assert message in outcome.stderr
    assert not Path("measurements").exists() or not Path("measurements/tuf").exists()


def test_the_written_files_are_listed_as_json(begun: Project) -> None:
    told = json.loads(begun.done("refresh", "--json", keys=("online",)).stdout)
    assert told == {"missing": [], "notes": [], "written": ["tuf/3.snapshot.json", "tuf/timestamp.json"]}


# --- one person after the other -------------------------------------------------------------------------------------

PROPOSAL = ("--propose", "../proposal")


def test_publishers_sign_one_after_the_other_each_with_builds_of_their_own(begun: Project) -> None:
    commit_something()
    words = (NAME, "--version", "1.1", *PROPOSAL)
    before, builds = begun.snapshot(), begun.builds
    outcome = begun.done(*words, keys=("alice",))
    assert outcome.stdout.splitlines()[0] == "../proposal: signed, and not complete yet"
    assert f"  {NAME}: 1 of 2 signatures; keys: " in outcome.stdout
    begun.now += DAY  # all of it has the day of the first signature
    outcome = begun.done(*words, keys=("p256-carol",))
    assert [line.partition(":")[0] for line in outcome.stdout.splitlines()[1:]] == ["  snapshot", "  timestamp"]
    assert begun.snapshot() == before
    outcome = begun.done(*words, keys=("online",))
    assert f"measurements/{NAME}/1.1/statement.dsse.json" in outcome.stdout.splitlines()
    assert begun.builds == builds + 3
    assert not Path("../proposal").exists()
    assert begun.index.versions[1].since == "2026-11-18"
    begun.done("check")
    outcome = begun.verify(f"{NAME}@1.1")
    assert outcome.code == 10
    assert "signed by 2 of 3 publishers" in outcome.stdout.splitlines()[0]


def test_who_would_sign_other_bytes_signs_nothing(begun: Project) -> None:
    commit_something()
    begun.done(NAME, "--version", "1.1", *PROPOSAL, keys=("alice",))
    kept = {path: path.read_bytes() for path in Path("../proposal").rglob("*") if path.is_file()}
    begun.bend = {leg: resealed(kernel="7.0") for leg in ("a", "b")}
    outcome = begun.run(NAME, "--version", "1.1", *PROPOSAL, keys=("bob", "online"))
    assert outcome.code == 8
    assert f"{NAME}/1.1/statement.dsse.json of the proposal is another one than this command makes" in outcome.stderr
    begun.bend = {}
    for words in (("--version", "1.1", "--serial", "5"), ("--version", "1.2")):
        outcome = begun.run(NAME, *words, *PROPOSAL, keys=("bob", "online"))
        assert outcome.code == 8, outcome.stdout
        assert "of the proposal is another one than this command makes" in outcome.stderr
    assert {path: path.read_bytes() for path in Path("../proposal").rglob("*") if path.is_file()} == kept
    begun.done(NAME, "--version", "1.1", *PROPOSAL, keys=("bob", "online"))


def test_a_forged_signature_in_a_proposal_is_left_out(begun: Project) -> None:
    keys = {"alice": "bob", "bob": "alice"}
    words = ("state", f"{NAME}@1.0", "revoked", "--reason", "x", *PROPOSAL)
    begun.done(*words, keys=("alice",))
    path = Path(f"../proposal/files/tuf/2.{NAME}.json")
    ids = {name: signer(name).public.keyid.encode() for name in keys}
    path.write_bytes(path.read_bytes().replace(ids["alice"], ids["bob"]))
    outcome = begun.done(*words, keys=("online",))
    assert f"{NAME}: 0 of 2 signatures" in outcome.stdout


def test_states_and_roots_are_signed_one_after_the_other_too(begun: Project) -> None:
    Path("roles.toml").write_text(ROLES.replace("root-1", "root-4"))
    for keys in (("root-1",), ("root-2",), ("root-4",)):
        assert "not complete yet" in begun.done("root", "roles.toml", *PROPOSAL, keys=keys).stdout
    begun.done("root", "roles.toml", *PROPOSAL, keys=("online",))
    state = ("state", f"{NAME}@1.0", "revoked", "--reason", "a hole", *PROPOSAL)
    for keys in (("bob",), ("alice",)):
        assert "not complete yet" in begun.done(*state, keys=keys).stdout
    told = json.loads(begun.done(*state, "--json").stdout)
    assert (told["written"], len(told["missing"])) == ([], 2)
    begun.done(*state, keys=("online",))
    begun.done("check")
    assert "version-revoked" in begun.verify().stdout


def test_a_proposal_in_the_checkout_is_no_change_of_it(begun: Project) -> None:
    git("add", "measurements")
    git("commit", "-qm", "published")
    for keys in (("alice",), ("bob", "online")):
        begun.done(NAME, "--version", "1.1", "--propose", "proposal", keys=keys)


def test_an_old_proposal_and_a_folder_that_is_none_are_refused(begun: Project) -> None:
    words = ("state", f"{NAME}@1.0", "revoked", "--reason", "x", *PROPOSAL)
    begun.done(*words, keys=("alice",))
    begun.now = NOW + 15 * DAY
    assert "expected one of the last 14 days" in begun.run(*words, keys=("bob",)).stderr
    begun.now = NOW - 1
    assert begun.run(*words, keys=("bob",)).code == 8
    Path("../proposal/proposal.json").write_text("{}")
    assert begun.run(*words, keys=("bob",)).code == 2
    Path("../proposal/proposal.json").unlink()
    assert "there are files in it, but no proposal" in begun.run(*words, keys=("bob",)).stderr


# --- the gate -------------------------------------------------------------------------------------------------------


def drop(path: str) -> Callable[[], None]:
    return lambda: Path("measurements", path).unlink()


def put(path: str, data: bytes) -> Callable[[], None]:
    def change() -> None:
        Path("measurements", path).parent.mkdir(parents=True, exist_ok=True)
        Path("measurements", path).write_bytes(data)

    return change


def flip(path: str) -> Callable[[], None]:
    def change() -> None:
        data = bytearray(Path("measurements", path).read_bytes())
        data[len(data) // 2] ^= 1
        Path("measurements", path).write_bytes(bytes(data))

    return change


FOUND: dict[str, tuple[Callable[[], None], str]] = {
    **{f"no {name}": (drop(f"{V}/{name}"), f"{V}/{name}: no such file") for name in (
        *release.FILES, "release.json", "statement.dsse.json", "provenance.dsse.json",
    )},
    **{f"another {name}": (flip(f"{V}/{name}"), f"{V}/{name}") for name in (*release.FILES, "release.json")},
    "another statement": (flip(f"{V}/statement.dsse.json"), V),
    "another provenance": (flip(f"{V}/provenance.dsse.json"), V),
    "a left-over file": (put(f"{V}/note.txt", b"x"), f"{V}/note.txt: nothing names it"),
    "a left-over version": (put(f"{NAME}/2.0/release.json", b"x"), "nothing names it"),
    "a left-over image": (put("other/index.json", b"x"), "nothing names it"),
    "a left-over metadata file": (put("tuf/x.json", b"x"), "tuf/x.json: nothing names it"),
    "another index": (flip(f"{NAME}/index.json"), "index-digest"),
    "another timestamp": (put("tuf/timestamp.json", b"{}"), "timestamp.signatures: missing"),
    "another root.json": (put("root.json", b"{}"), "root.json: not a copy of tuf/1.root.json"),
    "a bad endorsement": (put(f"{V}/endorsements/zoe.dsse.json", b"{}"), f"{V}/endorsements/zoe.dsse.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_the_gate_finds(
    case: str, templates: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(templates["after"] / "project/measurements", tmp_path / "measurements")
    monkeypatch.chdir(tmp_path)
    assert check.check(Path("measurements"), NOW).wrong == []
    change, message = FOUND[case]
    change()
    found = check.check(Path("measurements"), NOW)
    assert message in "\n".join(found.wrong)


def test_the_gate_s_findings_are_lines_or_json(begun: Project) -> None:
    for name in ("recipe.yaml", "lock.json"):
        (begun.folder / f"measurements/{V}" / f"{name}.orig").write_bytes(b"x")
    outcome = begun.run("check")
    assert outcome.code == 8
    assert outcome.stdout.splitlines() == [
        f"{V}/{name}.orig: nothing names it" for name in ("lock.json", "recipe.yaml")
    ]
    assert json.loads(begun.run("check", "--json").stdout)["wrong"] == outcome.stdout.splitlines()


def test_the_record_of_repro_is_no_leftover(begun: Project) -> None:
    put(f"{NAME}/current.json", b"{}")()
    begun.done("check")


def test_the_record_of_a_driver_is_no_leftover(begun: Project) -> None:
    put(f"drivers/{'a' * 64}.json", b"{}")()
    begun.done("check")
    put("drivers/note.json", b"{}")()
    assert begun.run("check").stdout.splitlines() == ["drivers/note.json: nothing names it"]


def test_the_gate_compares_with_the_folder_as_it_was(begun: Project) -> None:
    shutil.copytree("measurements", "../before")
    begun.done("check", "--against", "../before")
    keys = (*PUBLISHERS, "online")
    commit_something()
    begun.publish("1.1")
    begun.done("state", f"{NAME}@1.0", "revoked", "--reason", "x", keys=keys)
    begun.done("check", "--against", "../before")
    shutil.copytree("measurements", "../after")
    for path, folder in (("../before", "../after"), ("../after", "../before")):
        outcome = Outcome(begun.capsys, "publish", "check", folder, "--against", path)
        assert outcome.code == (0 if folder == "../after" else 8)
    assert "index-rollback" in outcome.stdout
    drop("tuf/1.demo-cpu.json")()
    outcome = begun.run("check", "--against", "../before")
    assert outcome.stdout == "tuf/1.demo-cpu.json: changed or gone, expected it as it was published\n"


def test_publishing_needs_a_clean_checkout_of_the_tool_too(begun: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "is_installed", lambda _: False)
    seen: list[Path] = []
    real = legs.committed

    def committed(folder: Path, published: list[Path]) -> str:
        seen.append(folder)
        return real(Path("recipes"), published)

    monkeypatch.setattr(legs, "committed", committed)
    begun.version("1.1")
    assert [path.name for path in seen[:2]] == ["recipes", "privml"]


def test_a_published_folder_outside_the_checkout_works_too(begun: Project) -> None:
    git("add", "-A")
    git("commit", "-qm", "published")
    begun.done("root", "roles.toml", "--in", "../elsewhere", keys=(*ROOTS, "online"))
    begun.done(NAME, "--version", "1.0", "--in", "../elsewhere", keys=(*PUBLISHERS, "online"))
    begun.done("check", "../elsewhere")


def test_a_volume_key_that_no_model_needs_is_refused_before_the_builds(begun: Project) -> None:
    VolumeKey("model/small", 1, bytes(range(64))).write(begun.folder.parent / "small.key")
    before = begun.builds
    outcome = begun.version("1.1", "--volume-key", "../small.key")
    assert (outcome.code, begun.builds) == (2, before)
    assert "demo-cpu has no resource `model/small`, expected none: no volume is encrypted" in outcome.stderr
    words = ("--as", "dora", "--key", "../private/dora", "--volume-key", "../small.key")
    outcome = Outcome(begun.capsys, "endorse", f"{NAME}@1.0", *words)
    assert (outcome.code, begun.builds) == (2, before)
