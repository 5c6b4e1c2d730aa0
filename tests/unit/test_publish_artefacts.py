"""`publish artefacts` and `--artefacts`: a pool that others fetch from; and the OCI image layout of an image."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_push_fake
from published_fake import NAME
from registry_push_fake import Registry
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures
from test_image_manifest import sample
from test_publish_command import PUBLISHERS, Project, begun, commit_something, differing, templates  # noqa: F401

from privml.base.errors import BuildError, UsageError
from privml.output import manifest as manifests
from privml.publish.oci import write_layout
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool, objects_in, relative

WANTED = f"{NAME}@1.0"
LEG = Path("../leg-1-a")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of_the_version() -> dict[str, bytes]:
    found = {name: (LEG / name).read_bytes() for name in manifests.read(LEG).artefacts}
    return {relative(hashlib.sha256(data).hexdigest()): data for data in found.values()}


def test_a_pool_is_filled_with_exactly_the_artefacts(begun: Project) -> None:  # noqa: F811
    outcome = begun.done("artefacts", WANTED, "pool", "--from", str(LEG))
    assert files(Path("pool")) == of_the_version()
    count = len(of_the_version())
    assert outcome.stdout.startswith(f"pool: {count} artefacts, {count} of them new (")
    assert begun.done("artefacts", WANTED, "pool", "--from", str(LEG)).stdout == (
        f"pool: {count} artefacts, 0 of them new (0.0 MB)\n"
    )
    [(digest, first), *_] = objects_in(Path("pool"))
    first.chmod(0o644)
    first.write_bytes(b"damaged")
    told = json.loads(begun.done("artefacts", WANTED, "pool", "--from", str(LEG), "--json").stdout)
    assert (told["artefacts"], told["copied"]) == (count, 1)
    assert hashlib.sha256(first.read_bytes()).hexdigest() == digest


def test_the_image_is_the_built_one_unless_another_is_named(begun: Project) -> None:  # noqa: F811
    outcome = begun.run("artefacts", WANTED, "pool")
    assert (outcome.code, "out/demo-cpu has no manifest.json" in outcome.stderr) == (6, True)
    shutil.copytree(LEG, "out/demo-cpu")
    begun.done("artefacts", WANTED, "pool")
    assert files(Path("pool")) == of_the_version()


def test_publishing_can_fill_the_pool_at_once(begun: Project) -> None:  # noqa: F811
    commit_something()
    outcome = begun.version("1.1", "--artefacts", "pool")
    assert outcome.code == 0, outcome.stderr
    assert files(Path("pool")) == of_the_version()  # the same artefacts, from another commit
    assert f"pool: {len(of_the_version())} artefacts" in outcome.stderr
    assert begun.version("1.1", "--artefacts", "pool").code == 0  # a pool in the checkout is no change of the sources


def test_nothing_is_copied_when_the_builds_differ(begun: Project) -> None:  # noqa: F811
    differing(begun)
    outcome = begun.version("1.1", "--artefacts", "pool")
    assert (outcome.code, Path("pool").exists()) == (1, False)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((WANTED, "http://server.example.invalid/pool"), 2, "is plain HTTP, expected https:// for an upload"),
        ((WANTED, "ftp://server.example.invalid/pool"), 2, "expected https://HOST"),
        ((WANTED, "oci://server.example.invalid"), 2, "expected oci://HOST[:PORT]/REPOSITORY"),
        ((WANTED, "oci://127.0.0.1:1/a", "--from", "../other"), 1, "is another image than the published demo-cpu"),
        ((WANTED, "layout"), 2, "is an OCI image layout"),
        ((WANTED, "README"), 2, "is not a directory"),
        ((f"{NAME}@9", "pool"), 2, "is not published"),
        ((NAME, "pool"), 2, "expected NAME@VERSION"),
        ((WANTED, "pool", "--from", "nowhere"), 2, "does not exist"),
        ((WANTED, "pool", "--from", "../other"), 1, "is another image than the published demo-cpu"),
        ((WANTED, "pool", "--from", "../damaged"), 6, "uki.efi does not match manifest.json"),
    ],
)
def test_what_is_not_copied(words: tuple[str, ...], code: int, message: str, begun: Project) -> None:  # noqa: F811
    Path("README").write_text("x")
    Path("layout").mkdir()
    Path("layout/oci-layout").write_text("{}")
    shutil.copytree(LEG, "../damaged")
    (Path("../damaged") / "uki.efi").write_bytes(b"damaged")
    made = sample(Path("../other"))
    (Path("../other") / "manifest.json").write_bytes(made.encode())
    outcome = begun.run("artefacts", *words)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr
    assert relative(manifests.read(LEG).artefacts["uki.efi"].sha256) not in files(Path())


def test_a_revoked_version_is_not_copied(begun: Project) -> None:  # noqa: F811
    keys = (*PUBLISHERS, "online")
    begun.done("state", WANTED, "revoked", "--reason", "a hole", keys=keys)
    outcome = begun.run("artefacts", WANTED, "pool", "--from", str(LEG))
    assert (outcome.code, "does not count any more" in outcome.stderr, Path("pool").exists()) == (8, True, False)


# --- pools at addresses ---------------------------------------------------------------------------------------------


@pytest.fixture
def registry(no_proxy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr("privml.store.upload.time.sleep", lambda _: None)
    with registry_push_fake.serving() as found:
        yield found


def blobs() -> dict[str, bytes]:
    return {path.replace("sha256/", "").replace("/", ""): data for path, data in of_the_version().items()}


def test_a_registry_is_filled_and_has_a_manifest_that_keeps_the_blobs(begun: Project, registry: Registry) -> None:  # noqa: F811
    outcome = begun.done("artefacts", WANTED, registry.pool, "--from", str(LEG))
    count, found = len(of_the_version()), manifests.read(LEG)
    assert outcome.stdout.startswith(f"{registry.pool}: {count} artefacts, {count} of them new (")
    documents = {hashlib.sha256(data).hexdigest(): data for data in (b"{}", found.encode())}
    assert registry.blobs == blobs() | documents
    exported(begun, "--image", str(LEG), "--output", "layout")
    [row] = json.loads(Path("layout/index.json").read_bytes())["manifests"]
    assert registry.manifests == {f"{NAME}-1.0": blob(Path("layout"), row)}
    told = json.loads(begun.done("artefacts", WANTED, registry.pool, "--from", str(LEG), "--json").stdout)
    assert told == {"pool": registry.pool, "artefacts": count, "copied": 0, "bytes": 0}


def test_what_a_registry_was_filled_with_is_fetched_as_the_image(
    begun: Project,  # noqa: F811
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.wants = "token"
    user = registry_push_fake.USER.removeprefix("Basic ")
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.address[7:]: {"auth": user}}}))
    begun.done("artefacts", WANTED, registry.pool, "--from", str(LEG))
    registry.wants = ""
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "elsewhere"))
    words = ("--trust", "../root.json", "--index", "measurements", "--pool", registry.pool, "--output", "fetched")
    fetched = Outcome(begun.capsys, "image", WANTED, *words)
    assert fetched.code == 0, fetched.stderr
    for name in manifests.read(LEG).artefacts:
        assert (Path("fetched") / name).read_bytes() == (LEG / name).read_bytes()


def test_publishing_can_upload_at_once_and_signs_nothing_when_that_fails(begun: Project, registry: Registry) -> None:  # noqa: F811
    commit_something()
    before = begun.snapshot()
    registry.bend[("PUT", "/v2/")] = (507, b"")
    outcome = begun.version("1.1+a", "--artefacts", registry.pool)
    assert (outcome.code, "HTTP 507, expected 201 or 204" in outcome.stderr) == (5, True)
    assert begun.snapshot() == before
    registry.bend.clear()
    outcome = begun.version("1.1+a", "--artefacts", registry.pool)
    assert outcome.code == 0, outcome.stderr
    count = len(of_the_version())
    assert f"{registry.pool}: {count} artefacts, {count} of them new" in outcome.stderr
    assert list(registry.manifests) == [f"{NAME}-1.1_a"]


def test_a_damaged_artefact_is_not_sent(begun: Project, registry: Registry) -> None:  # noqa: F811
    shutil.copytree(LEG, "../damaged")
    (Path("../damaged") / "uki.efi").write_bytes(b"damaged")
    outcome = begun.run("artefacts", WANTED, registry.pool, "--from", "../damaged")
    assert (outcome.code, "uki.efi does not match manifest.json" in outcome.stderr) == (6, True)
    assert manifests.read(LEG).artefacts["uki.efi"].sha256 not in registry.blobs
    assert registry.manifests == {}


def test_a_server_is_filled_by_put(begun: Project, registry: Registry) -> None:  # noqa: F811
    with registry_push_fake.serving_files() as server:
        begun.done("artefacts", WANTED, server.address, "--from", str(LEG))
        assert server.files == {f"/pool/{path}": data for path, data in of_the_version().items()}


# --- the OCI image layout -------------------------------------------------------------------------------------------


def layout(tmp_path: Path, name: str = "layout") -> tuple[Path, str]:
    made = sample(tmp_path / "image")
    folder = tmp_path / name
    return folder, write_layout(
        folder, tmp_path / "image", made.artefacts, {"manifest.json": made.encode()}, "2026.11.1"
    )


def blob(folder: Path, row: dict[str, Any]) -> bytes:
    data = (folder / "blobs/sha256" / row["digest"].removeprefix("sha256:")).read_bytes()
    assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (row["size"], row["digest"])
    return data


def test_a_layout_has_a_layer_for_each_file_and_nothing_else(tmp_path: Path) -> None:
    folder, digest = layout(tmp_path)
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_bytes())
    [row] = index["manifests"]
    assert (row["digest"], row["annotations"]) == (digest, {"org.opencontainers.image.ref.name": "2026.11.1"})
    manifest = json.loads(blob(folder, row))
    assert manifest["mediaType"] == row["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == row["artifactType"] == "application/vnd.privml-build.image.v1"
    assert blob(folder, manifest["config"]) == b"{}"
    found = {each["annotations"]["org.opencontainers.image.title"]: blob(folder, each) for each in manifest["layers"]}
    assert found == files(tmp_path / "image") | {"manifest.json": sample(tmp_path / "image").encode()}
    assert list(found) == sorted(found)
    assert len(files(folder)) == 2 + 1 + 1 + len(found)


def test_the_same_image_gives_the_same_layout(tmp_path: Path) -> None:
    first, second = layout(tmp_path), layout(tmp_path, "again")
    assert first[1] == second[1]
    assert files(first[0]) == files(second[0])


def test_a_layout_is_a_pool(tmp_path: Path) -> None:
    folder, _ = layout(tmp_path)
    store = Store(tmp_path / "store")
    each = sample(tmp_path / "image").artefacts["uki.efi"]
    fetch(store, [Item(each.sha256, each.size, "uki.efi", ())], pools=[Pool.parse(str(folder))])
    assert store.read(each.sha256) == b"uki.efi"


def test_a_damaged_artefact_or_a_directory_in_use_gives_no_layout(tmp_path: Path) -> None:
    made = sample(tmp_path / "image")
    (tmp_path / "image/uki.efi").write_bytes(b"UKI.EFI")
    with pytest.raises(BuildError, match=r"uki.efi does not match"):
        write_layout(tmp_path / "layout", tmp_path / "image", made.artefacts, {}, "1")
    assert not (tmp_path / "layout").exists()
    with pytest.raises(UsageError, match="is not empty"):
        write_layout(tmp_path / "image", tmp_path / "image", made.artefacts, {}, "1")


# --- an image layout of a version -----------------------------------------------------------------------------------


def exported(begun: Project, *words: str) -> Outcome:  # noqa: F811
    return Outcome(begun.capsys, "export", WANTED, "--format", "oci", "--trust", "measurements/root.json", *words)


def test_a_version_is_exported_as_a_layout_that_is_a_pool(begun: Project, tmp_path: Path) -> None:  # noqa: F811
    outcome = exported(begun, "--image", str(LEG), "--output", "layout")
    assert outcome.code == 0, outcome.stderr
    digest = outcome.stdout.split()[-1]
    index = json.loads(Path("layout/index.json").read_bytes())
    assert [row["digest"] for row in index["manifests"]] == [digest]
    found = manifests.read(LEG)
    assert (Path("layout/blobs/sha256") / found.sha256.hex()).read_bytes() == found.encode()
    store = Store(tmp_path / "empty")
    items = [Item(each.sha256, each.size, name, ()) for name, each in found.artefacts.items()]
    fetch(store, items, pools=[Pool.parse("layout")])
    assert all(store.has(each.sha256) for each in found.artefacts.values())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--output", "layout"), 2, "--format oci takes --image"),
        (("--image", str(LEG)), 2, "--format oci takes --image"),
        (("--image", str(LEG), "--output", "layout", "--shape", "x"), 2, "--format oci takes --image"),
        (("--image", str(LEG), "--output", "full"), 2, "full is not empty"),
        (
            ("--image", "../other", "--output", "layout"),
            8,
            "../other is not demo-cpu 1.0: its manifest has the SHA-256",
        ),
        (("--image", "../damaged", "--output", "layout"), 6, "uki.efi does not match manifest.json"),
    ],
)
def test_what_is_not_exported_as_a_layout(
    words: tuple[str, ...],
    code: int,
    message: str,
    begun: Project,  # noqa: F811
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("x")
    shutil.copytree(LEG, "../damaged")
    (Path("../damaged") / "uki.efi").write_bytes(b"damaged")
    (Path("../other") / "manifest.json").write_bytes(sample(Path("../other")).encode())
    outcome = exported(begun, *words)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr
    assert not Path("layout").exists()


def test_other_forms_take_no_image(begun: Project) -> None:  # noqa: F811
    words = ("export", WANTED, "--format", "trustee", "--trust", "measurements/root.json", "--image", str(LEG))
    outcome = Outcome(begun.capsys, *words)
    assert (outcome.code, "--image is for --format oci" in outcome.stderr) == (2, True)
