"""`image NAME@VERSION --trust ROOT`: an image from published digests, what a pool may do, and what the image says."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import attestation_samples as samples
import click
import logged_fake
import pytest
from image_volume import volume
from pool_server import serving
from published_fake import DAY, NAME, NOW, signer
from registry_fake import serving as registry_serving
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures
from test_client_ci import ROOT as SIGSTORE_ROOT
from test_log_command import pem
from test_publish_command import PUBLISHERS, Project, begun, commit_something, resealed, templates  # noqa: F401
from test_repro_compare import opener

from privml.base.errors import BuildError, EvidenceError
from privml.cli.main import cli
from privml.cli.trusted import trust_options
from privml.image.published import documents
from privml.lock.lockfile import parse, serialise
from privml.lock.models import Lock, ToolsLock
from privml.output import fetched as records
from privml.output import manifest as manifests
from privml.output.artefacts import Artefact
from privml.output.manifest import Manifest
from privml.output.repository import fetch_from
from privml.repro.compare import compare
from privml.statement import follow
from privml.statement.follow import Fetch, Memory, Version
from privml.statement.keys import Role
from privml.statement.release import File
from privml.statement.untrusted import UntrustedError
from privml.store.objects import Store
from privml.store.pools import relative

pytestmark = pytest.mark.usefixtures("no_proxy")
WANTED = f"{NAME}@1.0"


class Caller:
    """Somebody who has a root, the address of a repository and a pool, and nothing else."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.published = project.folder.parent / "leg-1-a"
        self.pool = folder / "pool"
        for each in self.manifest.artefacts:
            keep(self.pool, (self.published / each).read_bytes())
        (folder / "state").mkdir()

    @property
    def manifest(self) -> Manifest:
        return manifests.read(self.published)

    @property
    def output(self) -> Path:
        return self.folder / "fetched"

    def fetch(self, *words: str, wanted: str = WANTED, pool: str | Path | None = None) -> Outcome:
        assert self.project.capsys is not None
        pools = () if pool == "" else ("--pool", str(self.pool if pool is None else pool))
        return Outcome(
            self.project.capsys, "image", wanted, "--trust", "../root.json", "--index", "measurements", *pools,
            "--output", str(self.output), "--trust-state", str(self.folder / "state"), *words,
        )  # fmt: skip

    def fetched(self, *words: str, pool: str | Path | None = None) -> Outcome:
        outcome = self.fetch(*words, pool=pool)
        assert outcome.code == 0, outcome.stderr
        return outcome

    def run(self, *words: str) -> Outcome:
        assert self.project.capsys is not None
        return Outcome(self.project.capsys, *words)


def keep(pool: Path, data: bytes, digest: str = "") -> Path:
    place = pool / relative(digest or hashlib.sha256(data).hexdigest())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


@pytest.fixture
def caller(begun: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caller:  # noqa: F811
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "caller/store"))
    (tmp_path / "caller").mkdir()
    return Caller(begun, tmp_path / "caller")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_is_fetched_whole_without_building(caller: Caller) -> None:
    outcome = caller.fetched()
    found, version = files(caller.output), Path(f"measurements/{NAME}/1.0")
    for name in (*caller.manifest.artefacts, "manifest.json", "prediction.json", "provenance.json"):
        assert found.pop(name) == (caller.published / name).read_bytes(), name
    assert found.pop("published/fetched.json")
    assert found == {
        f"{NAME}.lock.json": (version / "lock.json").read_bytes(),
        f"{NAME}.tools.lock.json": (version / "tools.lock.json").read_bytes(),
        "sbom.cdx.json": (version / "sbom.cdx.json").read_bytes(),
        **{
            f"published/{name}": (version / name).read_bytes()
            for name in ("recipe.yaml", "release.json", "statement.dsse.json", "provenance.dsse.json")
        },
    }
    assert "fetched, not built: version 1.0 (serial 1), signed by " in outcome.stdout.splitlines()[-1]
    assert "note: index valid until " in outcome.stderr


def test_it_is_an_image_as_any_other(caller: Caller) -> None:
    caller.fetched()
    report = compare(
        caller.published, caller.output, opener=lambda path, part: opener(caller.published / path.name, part)
    )
    assert {finding.place for finding in report.findings} <= {f"{NAME}.lock.json", f"{NAME}.tools.lock.json"}
    shown = caller.run("inspect", str(caller.output))
    assert shown.code == 0, shown.stderr
    assert shown.stdout.splitlines()[1].startswith("fetched, not built: version 1.0 (serial 1), signed by ")
    told = json.loads(caller.run("inspect", str(caller.output), "--json").stdout)["fetched"]
    assert (told["version"], told["serial"], told["as_of"]) == ("1.0", 1, NOW)
    assert told["root_sha256"] == hashlib.sha256(Path("../root.json").read_bytes()).hexdigest()
    words = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--allow-simulated", "../root.pem")
    verdict = caller.run("verify", "../doc.json", *words, "--expect", str(caller.output))
    assert verdict.code == 10, verdict.stdout + verdict.stderr
    first = verdict.stdout.splitlines()[0]
    assert f"the image in {caller.output}, fetched as version 1.0 (serial 1) and not built" in first
    assert "note: the image was fetched, not built" in verdict.stdout


def test_the_json_says_what_was_fetched(caller: Caller) -> None:
    told = json.loads(caller.fetched("--json").stdout)
    assert (told["cached"], told["directory"]) == (False, str(caller.output))
    assert (told["fetched"]["name"], told["fetched"]["version"]) == (NAME, "1.0")
    assert told["artefacts"] == {name: vars(each) for name, each in caller.manifest.artefacts.items()}
    assert json.loads(caller.fetched("--json").stdout)["cached"] is True


def test_what_is_there_is_not_fetched_again(caller: Caller, tmp_path: Path) -> None:
    with serving(caller.pool) as (address, asked):
        caller.fetched(pool=address)
        assert len(asked) == len(caller.manifest.artefacts)
        shutil.rmtree(tmp_path / "caller/store")
        caller.project.now = NOW + DAY
        caller.fetched(pool=address)
        assert len(asked) == len(caller.manifest.artefacts)
        record = records.read(caller.output, caller.manifest)
        assert record is not None and record.as_of == NOW + DAY
        (caller.output / "uki.efi").unlink()
        (caller.output / "uki.efi").write_bytes(b"other")
        (caller.output / "sbom.cdx.json").unlink()
        caller.fetched(pool=address)
        assert len(asked) == len(caller.manifest.artefacts) + 1
    assert files(caller.output)["uki.efi"] == (caller.published / "uki.efi").read_bytes()
    assert (caller.output / "sbom.cdx.json").is_file()


def test_a_damaged_object_of_the_store_is_not_taken(caller: Caller, tmp_path: Path) -> None:
    store = Store(tmp_path / "caller/store")
    digest = caller.manifest.artefacts["uki.efi"].sha256
    store.add_bytes((caller.published / "uki.efi").read_bytes())
    place = store.path(digest)
    place.chmod(0o644)
    place.write_bytes(b"damaged")
    outcome = caller.fetch()
    assert (outcome.code, "is damaged" in outcome.stderr, caller.output.exists()) == (4, True, False)
    caller.fetched()


def test_the_same_image_that_was_built_here_stays(caller: Caller) -> None:
    shutil.copytree(caller.published, caller.output)
    before = files(caller.output)
    told = json.loads(caller.fetched("--json").stdout)
    assert (told["cached"], told["fetched"], files(caller.output)) == (True, None, before)
    (caller.output / "uki.efi").write_bytes(b"damaged")
    assert json.loads(caller.fetched("--json").stdout)["fetched"]["version"] == "1.0"


def test_an_image_of_another_kind_is_replaced_and_a_stranger_s_directory_is_not(caller: Caller) -> None:
    caller.output.mkdir()
    (caller.output / "letter.txt").write_text("mine")
    outcome = caller.fetch()
    assert (outcome.code, files(caller.output)) == (2, {"letter.txt": b"mine"})
    (caller.output / "letter.txt").unlink()
    (caller.output / "manifest.json").write_text('{"format":"privml-manifest/v1"}')
    caller.fetched()
    assert manifests.read(caller.output) == caller.manifest


def test_a_registry_and_an_image_layout_are_pools(caller: Caller, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text("{}")
    with registry_serving() as registry:
        for name, each in caller.manifest.artefacts.items():
            registry.blobs[each.sha256] = (caller.published / name).read_bytes()
            shutil.copy(caller.published / name, layout / "blobs/sha256" / each.sha256)
        caller.fetched(pool=registry.pool)
    shutil.rmtree(caller.output)
    shutil.rmtree(tmp_path / "caller/store")
    caller.fetched(pool=layout)
    assert files(caller.output)["root.raw"] == (caller.published / "root.raw").read_bytes()


def on_a_disk(folder: Path) -> None:
    (folder / "disk.raw").write_bytes(volume("privml-esp"))
    resealed(boot="disk")(folder)


def test_an_image_that_boots_from_its_disk_is_published_fetched_and_exported_with_it(caller: Caller) -> None:
    project, second = caller.project, caller.project.folder.parent / "leg-2-a"
    commit_something()
    project.bend = {"a": on_a_disk, "b": on_a_disk}
    outcome = project.version("1.1", "--artefacts", "pool")
    assert outcome.code == 0, outcome.stderr
    made = manifests.read(second)
    disk = made.artefacts["disk.raw"]
    assert (Path("pool") / relative(disk.sha256)).read_bytes() == (second / "disk.raw").read_bytes()
    outcome = caller.fetch(wanted=f"{NAME}@1.1", pool="pool")
    assert outcome.code == 0, outcome.stderr
    found = files(caller.output)
    assert {name: found[name] for name in made.artefacts} == {
        name: (second / name).read_bytes() for name in made.artefacts
    }
    assert manifests.read(caller.output) == made
    assert (made.boot, made.disks) == ("disk", ("disk.raw",))
    words = (
        "--format",
        "oci",
        "--trust",
        "measurements/root.json",
        "--image",
        str(caller.output),
        "--output",
        "layout",
    )
    outcome = caller.run("export", f"{NAME}@1.1", *words)
    assert outcome.code == 0, outcome.stderr
    assert (Path("layout/blobs/sha256") / disk.sha256).read_bytes() == found["disk.raw"]
    shutil.rmtree(caller.output)
    shutil.rmtree(caller.folder / "store")
    assert caller.fetch(wanted=f"{NAME}@1.1", pool="layout").code == 0
    assert files(caller.output)["disk.raw"] == found["disk.raw"]
    (Path("pool") / relative(disk.sha256)).write_bytes(b"another disk")
    shutil.rmtree(caller.output)
    shutil.rmtree(caller.folder / "store")
    outcome = caller.fetch(wanted=f"{NAME}@1.1", pool="pool")
    assert (outcome.code, "disk.raw" in outcome.stderr, caller.output.exists()) == (4, True, False), outcome.stderr


# --- what is refused ------------------------------------------------------------------------------------------------


def lie(change: Callable[[bytes], bytes]) -> Callable[[Caller], None]:
    def bend(caller: Caller) -> None:
        data = (caller.published / "uki.efi").read_bytes()
        keep(caller.pool, change(data), hashlib.sha256(data).hexdigest())

    return bend


def forget(caller: Caller) -> None:
    (caller.pool / relative(caller.manifest.artefacts["uki.efi"].sha256)).unlink()


LIES: dict[str, tuple[Callable[[Caller], None], str, str]] = {
    "other bytes": (lie(lambda data: data[::-1]), "sha256 got ", "sha256 got "),
    "short": (lie(lambda data: data[:-1]), " bytes, expected ", " bytes, expected "),
    "long": (lie(lambda data: data + b"x"), " bytes, expected ", " bytes, expected "),
    "empty": (lie(lambda _: b""), "0 bytes, expected ", "0 bytes, expected "),
    "none": (forget, "not in this pool", "HTTP 404"),
}


@pytest.mark.parametrize("web", [False, True])
@pytest.mark.parametrize("case", LIES)
def test_a_pool_s_lies_are_named_and_leave_nothing(case: str, web: bool, caller: Caller) -> None:
    bend, said, over_http = LIES[case]
    bend(caller)
    with serving(caller.pool) as (address, _):
        outcome = caller.fetch(pool=address if web else None)
        place = address if web else str(caller.pool)
    digest = caller.manifest.artefacts["uki.efi"].sha256
    assert (outcome.code, outcome.stdout, caller.output.exists()) == (4, "", False)
    assert f"uki.efi (sha256:{digest}) could not be fetched:" in outcome.stderr
    assert any(place in line and (over_http if web else said) in line for line in outcome.stderr.splitlines())
    assert "artefacts have no other address" in outcome.stderr
    assert "name a pool that has them (--pool)" in outcome.stderr


def test_the_next_pool_helps_when_the_first_lies(caller: Caller, tmp_path: Path) -> None:
    good = tmp_path / "good"
    shutil.copytree(caller.pool, good)
    lie(lambda data: data[::-1])(caller)
    caller.fetched("--pool", str(good))
    assert files(caller.output)["uki.efi"] == (caller.published / "uki.efi").read_bytes()


def test_without_a_pool_every_artefact_is_named(caller: Caller) -> None:
    outcome = caller.fetch(pool="")
    assert outcome.code == 4
    for name in caller.manifest.artefacts:
        assert f"{name} (sha256:" in outcome.stderr
    assert "no pool was named" in outcome.stderr


def revoke(project: Project) -> None:
    keys = (*PUBLISHERS, "online")
    project.done("state", WANTED, "revoked", "--reason", "a hole", keys=keys)


def raise_minimum(project: Project) -> None:
    commit_something()
    project.publish("1.1")
    project.done("minimum", NAME, "2", keys=(*PUBLISHERS, "online"))


def expire(project: Project) -> None:
    project.now = NOW + 31 * DAY


def other_file(name: str, data: bytes = b"{}") -> Callable[[Project], None]:
    return lambda _: Path(f"measurements/{NAME}/1.0/{name}").write_bytes(data) and None


REFUSED: dict[str, tuple[Callable[[Project], None], int, str]] = {
    "revoked": (revoke, 8, "version-revoked: the publishers revoked this version: got 1.0 is revoked: a hole"),
    "below the minimum": (raise_minimum, 8, "version-below-minimum: "),
    "out of date": (expire, 8, "index-expired: the index is out of date: got timestamp valid until"),
    "another manifest": (other_file("manifest.json"), 8, "statement-digest: got demo-cpu/1.0/manifest.json"),
    "another lock": (other_file("lock.json"), 8, "statement-digest: got demo-cpu/1.0/lock.json"),
    "another release": (other_file("release.json"), 8, "statement-digest: got demo-cpu/1.0/release.json"),
    "another statement": (other_file("statement.dsse.json"), 9, "demo-cpu/1.0/statement.dsse.json"),
    "another provenance": (other_file("provenance.dsse.json"), 9, "demo-cpu/1.0/provenance.dsse.json"),
    "no sbom": (
        lambda _: Path(f"measurements/{NAME}/1.0/sbom.cdx.json").unlink(),
        9,
        "demo-cpu/1.0/sbom.cdx.json: no such file",
    ),
    "another index": (
        lambda _: Path(f"measurements/{NAME}/index.json").write_bytes(b"{}") and None,
        8,
        "index-digest",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_version_that_does_not_count_is_not_fetched(case: str, caller: Caller) -> None:
    bend, code, message = REFUSED[case]
    bend(caller.project)
    with serving(caller.pool) as (address, asked):
        outcome = caller.fetch(pool=address)
        assert (outcome.code, outcome.stdout, asked, caller.output.exists()) == (code, "", [], False), outcome.stderr
    assert message in outcome.stderr


def test_a_superseded_version_is_fetched_with_a_note(caller: Caller) -> None:
    commit_something()
    caller.project.publish("1.1")
    keys = (*PUBLISHERS, "online")
    caller.project.done("state", WANTED, "superseded", "--replaced-by", "1.1", keys=keys)
    assert "note: 1.0 is superseded by 1.1" in caller.fetched().stderr


def test_an_older_copy_of_the_index_is_refused(caller: Caller) -> None:
    shutil.copytree("measurements", "../old")
    caller.project.done("refresh", keys=("online",))
    caller.fetched()
    shutil.rmtree("measurements")
    shutil.move("../old", "measurements")
    outcome = caller.fetch()
    assert (outcome.code, "index-rollback: " in outcome.stderr) == (8, True)


def test_a_missing_memory_is_exit_5(caller: Caller) -> None:
    shutil.rmtree(caller.folder / "state")
    assert caller.fetch().code == 5


def test_a_log_can_be_asked_for(caller: Caller) -> None:
    """The proof of `log append`, with and without a witness of the caller's policy."""
    Path("../log.pem").write_bytes(pem("log"))
    policy = Path("../policy.txt")
    policy.write_text(logged_fake.policy_text("", "none"))
    refused = caller.fetch("--log-policy", str(policy))
    assert (refused.code, "not-logged: the version is not proven to be in a log" in refused.stderr) == (8, True)
    assert not caller.output.exists()
    logged = caller.run("log", "append", "--key", "../log.pem", "--origin", logged_fake.ORIGIN)
    assert logged.code == 0, logged.stderr
    outcome = caller.fetched("--log-policy", str(policy))
    assert f"of {logged_fake.ORIGIN}, cosigned by nobody" in outcome.stderr
    policy.write_text(logged_fake.policy_text())
    refused = caller.fetch("--log-policy", str(policy))
    assert (refused.code, "witnesses: too few of your witnesses" in refused.stderr) == (8, True)


def test_an_attestation_of_ci_can_be_asked_for(caller: Caller) -> None:
    Path("../sigstore.json").write_bytes(SIGSTORE_ROOT)
    words = ("--ci", "owner/name", "--ci-root", "../sigstore.json")
    refused = caller.fetch(*words)
    assert (refused.code, f"got no {NAME}/1.0/ci.sigstore.json" in refused.stderr) == (8, True)
    assert not caller.output.exists()


@pytest.mark.parametrize("verb", ["verify", "proxy", "image", "export"])
def test_verbs_that_rely_on_a_version_have_the_same_options(verb: str) -> None:
    def options(command: click.Command) -> dict[str, str | None]:
        return {each.name or "": each.help for each in command.params if isinstance(each, click.Option)}

    shared = options(click.command()(trust_options(lambda **_: None)))
    assert set(shared) == {"index", "trust_state", "rebuilders", "log_policy", "ci", "ci_root"}
    found = options(cli.get_command(click.Context(cli), verb))  # type: ignore[arg-type]
    assert shared.items() <= found.items()


def test_rebuilders_can_be_asked_for(caller: Caller) -> None:
    people = {
        "format": "privml-rebuilders/v1",
        "rebuilders": [{"name": "zoe", "key": Path("keys/dora.pub").read_text()}],
    }
    Path("../people.json").write_text(json.dumps(people))
    outcome = caller.fetch("--rebuilders", "../people.json:1")
    assert (outcome.code, "rebuilders: too few of your rebuilders" in outcome.stderr) == (8, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((NAME, "--trust", "../root.json"), "expected NAME@VERSION"),
        ((WANTED,), "is a published version: it needs --trust"),
        (("demo-cpu@9", "--trust", "../root.json", "--index", "nowhere"), "--index: got `nowhere`"),
        ((WANTED, "--trust", "nowhere.json"), "cannot be read"),
        ((WANTED, "--trust", "../root.json", "--force"), "--force is for a build"),
        ((WANTED, "--trust", "../root.json", "--lock", "x"), "--lock is for a build"),
        ((WANTED, "--trust", "../root.json", "--render-only", "x"), "--render-only is for a build"),
        ((NAME, "--index", "measurements"), "--index is for published measurements"),
        ((NAME, "--rebuilders", "x:1"), "--rebuilders is for published measurements"),
        ((NAME, "--trust-state", "x"), "--trust-state is for published measurements"),
        ((NAME, "--log-policy", "x"), "--log-policy is for published measurements"),
        ((NAME, "--ci", "a/b", "--ci-root", "x"), "--ci is for published measurements"),
        ((NAME, "--ci", "a/b"), "--ci and --ci-root belong together"),
        ((NAME, "--allow-demonstration"), "--allow-demonstration is for published measurements"),
        ((WANTED, "--trust", "../root.json", "--index", "measurements", "--pool", "nowhere"), "neither a directory"),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str, caller: Caller) -> None:
    outcome = caller.run("image", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr


def test_an_unknown_version_is_refused(caller: Caller) -> None:
    outcome = caller.fetch(wanted=f"{NAME}@9")
    assert (outcome.code, "version-unknown: got demo-cpu 9, expected one of 1.0" in outcome.stderr) == (8, True)


# --- the record -----------------------------------------------------------------------------------------------------


def record(**changes: object) -> bytes:
    values = {"name": NAME, "version": "1.0", "serial": 1, "release_sha256": b"1" * 32, "manifest_sha256": b"2" * 32,
              "root_sha256": b"3" * 32, "signers": ("ab" * 32,), "as_of": NOW}  # fmt: skip
    return records.FetchRecord(**{**values, **changes}).encode()  # type: ignore[arg-type]


def test_a_record_round_trips_and_others_are_refused() -> None:
    assert records.decode(record(), "x").encode() == record()
    for bad in (
        record() + b"\n",
        record(serial=0),
        record(version=".."),
        record(name="Demo"),
        record(signers=("ab",)),
        record(signers=("ab" * 32,) * 65),
        record().replace(b"fetched/v1", b"fetched/v2"),
        record().replace(b'"serial":1', b'"serial":1,"x":1'),
    ):
        with pytest.raises(EvidenceError):
            records.decode(bad, "x")


def test_a_record_of_another_image_is_an_error(caller: Caller) -> None:
    caller.fetched()
    place = caller.output / "published/fetched.json"
    for bad, message in ((record(), "is of another image"), (b"{}", "cannot be read")):
        place.unlink()
        place.write_bytes(bad)
        with pytest.raises(BuildError, match=message):
            records.read(caller.output, caller.manifest)
        assert caller.run("inspect", str(caller.output)).code == 6
    caller.fetched()
    assert records.read(caller.output, caller.manifest) is not None


# --- a version's files belong together ------------------------------------------------------------------------------


def signed_version() -> tuple[Fetch, Version, Role]:
    fetch = fetch_from(Path("measurements"))
    root = Path("../root.json").read_bytes()
    update = follow.follow(fetch, root, Memory())
    index = follow.index_of(update, fetch, NAME)
    role = update.publishers(NAME)
    return fetch, follow.version_of(fetch, index, index.versions[0], role), role


def other_lock(data: bytes) -> bytes:
    lock = parse(data, Lock, "lock")
    return serialise(lock.model_copy(update={"source_date_epoch": lock.source_date_epoch + 1}))


def other_tools(data: bytes) -> bytes:
    lock = parse(data, ToolsLock, "lock")
    return serialise(lock.model_copy(update={"source_date_epoch": lock.source_date_epoch + 1}))


def changed_artefact(manifest: Manifest) -> Manifest:
    return replace(manifest, artefacts={**manifest.artefacts, "uki.efi": Artefact("0" * 64, 1)})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lock.json", other_lock, "lock.json: got"),
        ("tools.lock.json", other_tools, "tools.lock.json: got"),
        ("lock.json", lambda _: b"{}", "not a lock"),
        (
            "manifest.json",
            lambda data: replace(manifests.decode(data), lock_sha256="0" * 64).encode(),
            "lock of the manifest: got 0000",
        ),
        (
            "manifest.json",
            lambda data: replace(manifests.decode(data), recipe_sha256="0" * 64).encode(),
            "recipe of the manifest: got 0000",
        ),
        ("manifest.json", lambda data: replace(manifests.decode(data), name="other").encode(), "name: got other"),
        (
            "manifest.json",
            lambda data: changed_artefact(manifests.decode(data)).encode(),
            "the statement is not of the manifest's artefacts",
        ),
    ],
)
def test_files_that_contradict_each_other_are_refused_whoever_signed_them(
    name: str,
    change: Callable[[bytes], bytes],
    message: str,
    begun: Project,  # noqa: F811
) -> None:
    fetch, version, role = signed_version()
    path = f"{version.folder}/{name}"
    data = change(fetch(path, 1 << 24) or b"")
    release = replace(version.release, files={**version.release.files, name: File.of(data)})
    with pytest.raises(EvidenceError, match=message):
        documents(lambda at, limit: data if at == path else fetch(at, limit), replace(version, release=release), role)


def test_another_provenance_of_the_same_publishers_is_refused(begun: Project) -> None:  # noqa: F811
    fetch, version, role = signed_version()
    release = replace(version.release, provenance_sha256=bytes(32))
    with pytest.raises(
        UntrustedError, match=r"statement-digest: got the payload of demo-cpu/1.0/provenance.dsse.json"
    ):
        documents(fetch, replace(version, release=release), role)
    alone = Role(role.keys[:1], 1)
    assert documents(fetch, version, alone).provenance.payload
    with pytest.raises(UntrustedError, match="statement-signatures"):
        documents(fetch, version, Role((signer("dora").public,), 1))
