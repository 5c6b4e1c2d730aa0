"""Images with encrypted models: from a key, from the volume of another image, or from what was built before."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from image_varied import BASE, DATA, HASHES, Document, Predictor, Workshop, reseal
from test_repro_legs import LEG

from privml.base.errors import InputsError, UsageError
from privml.base.strictjson import b64
from privml.events import configuration
from privml.events.crypt import Broker
from privml.image import build as room
from privml.image.config import measured_config
from privml.image.filling import MadeVolume
from privml.image.order import BuildResult
from privml.image.steps import earlier
from privml.image.volumekeys import VolumeKeys
from privml.lock.lockfile import write_lock
from privml.output import manifest as manifests
from privml.output.volumekey import VolumeKey
from privml.repro import child
from privml.store.objects import Store

BROKER = "ab" * 32
KEY = VolumeKey("model/small", 1, bytes(range(64)))
OTHER = VolumeKey("model/small", 2, bytes(range(1, 65)))


def encrypted(**changes: Any) -> Document:
    document = copy.deepcopy(BASE)
    document["inference"]["models"][0]["encrypt"] = {"broker": "owner", "resource": "model/small", **changes}
    broker = document["inference"]["models"][0]["encrypt"]["broker"]
    document["keys"] = {"brokers": {broker: {"ed25519": BROKER}}}
    return document


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Workshop(tmp_path_factory.mktemp("encrypted"), monkeypatch)


@pytest.fixture(scope="module")
def made(shop: Workshop) -> Path:
    """An image that its owner made, with the key."""
    return shop.image("owner", encrypted(), volumes=VolumeKeys.of([KEY]))


@pytest.fixture(scope="module")
def plain(shop: Workshop) -> Path:
    return shop.image("plain", BASE)


def digests(image: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in image.iterdir() if path.is_file()}


def again(shop: Workshop, output: Path, volumes: VolumeKeys, *, force: bool = False, **changes: Any) -> BuildResult:
    """Build the last recipe of the workshop into ``output``."""
    order = shop.fake.order(tools=lambda: shop.tools, volumes=volumes, **changes)
    return room.build(order, output, force=force)


def test_an_encrypted_image_is_described_and_measured(shop: Workshop, made: Path, plain: Path) -> None:
    found, bare = manifests.read(made), manifests.read(plain)
    (model,) = found.models
    assert model.crypt == KEY.crypt("owner")
    assert [event.name for event in found.agent_events] == ["config", "keys", "model", "engine", "system-ready"]
    assert (found.purposes, bare.purposes) == ({"key-release": 1, "serve": 5}, {"serve": 4})
    assert bare.models[0].crypt is None
    shop.fake.recipe = shop.recipe("owner", encrypted(), {}, "varied")
    volume = MadeVolume(model.name, "small.gguf", model.verity, model.crypt)
    config = measured_config(shop.fake.recipe, shop.lock(shop.fake.recipe), [volume])
    assert config.brokers == (Broker("owner", bytes.fromhex(BROKER)),)
    assert config.encrypted == (KEY.crypt("owner"),)
    assert hashlib.sha256(configuration.encode(config)).hexdigest() == found.config_sha256


def test_the_hash_tree_is_over_the_ciphertext_and_no_plaintext_stays(shop: Workshop, made: Path, plain: Path) -> None:
    volume, bare = ((image / "model.raw").read_bytes() for image in (made, plain))
    verity = manifests.read(made).models[0].verity
    assert verity.root_hash == hashlib.sha256(verity.salt + volume[DATA:HASHES]).digest()
    magic = 0xE0F5E1E2.to_bytes(4, "little")
    assert magic in bare and magic not in volume
    assert sorted(path.name for path in made.parent.iterdir() if path.name.startswith((".", "out"))) == [
        ".out.lock", "out",
    ]  # fmt: skip


def test_two_builds_with_one_key_are_equal_and_another_key_gives_another_image(
    shop: Workshop, made: Path, plain: Path
) -> None:
    twin = shop.image("owner-again", encrypted(), volumes=VolumeKeys.of([KEY]))
    assert digests(twin) == digests(made)
    other = shop.image("other-key", encrypted(), volumes=VolumeKeys.of([OTHER]))
    assert digests(other)["model.raw"] != digests(made)["model.raw"]
    found = shop.diff(made, other)
    assert [change.text() for change in found.unexplained] == []
    assert [change.title for change in found.changes if change.kind == "volume key"] == ["volume key small"]
    assert found.registers is not None and set(found.registers) == {"rtmr1", "rtmr2", "rtmr3"}
    report = shop.compared(made, other)
    (check,) = [each for each in report.findings if each.place == "model.raw:check"]
    assert check.cause.id == "volume-key"
    assert "unreadable-artefact" not in {each.cause.id for each in report.findings}
    turned_on = shop.diff(plain, made)
    assert [change.text() for change in turned_on.unexplained] == []


@pytest.mark.parametrize(
    ("change", "name"),
    [({"broker": "other"}, "encrypt.broker"), ({"resource": "model/b"}, "encrypt.resource")],
)
def test_a_changed_field_of_the_encryption_explains_what_differs(
    shop: Workshop, made: Path, change: dict[str, str], name: str
) -> None:
    key = replace(KEY, resource=change.get("resource", KEY.resource))
    two = shop.image(f"field-{name}", encrypted(**change), volumes=VolumeKeys.of([key]))
    found = shop.diff(made, two)
    assert f"inference.models[0].{name}" in {change.name for change in found.changes if change.kind == "recipe field"}
    assert [change.text() for change in found.unexplained] == []


def test_without_key_and_model_the_volume_of_another_image_is_taken_and_everything_is_equal(
    shop: Workshop, made: Path
) -> None:
    shop.fake.recipe = shop.recipe("stranger", encrypted(), {}, "varied")
    shop.fake.lock = shop.lock(shop.fake.recipe)
    gone = [shop.fake.store.path(file.sha256) for model in shop.fake.lock.models for file in model.objects]
    kept = {path: path.read_bytes() for path in gone}
    assert kept, "the model is an input of its own"
    try:
        for path in gone:
            path.unlink()
        again(shop, shop.folder / "stranger/out", VolumeKeys(directory=made), predictor=Predictor())
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    assert digests(shop.folder / "stranger/out") == digests(made)


@pytest.mark.parametrize("given", [True, False])
def test_a_leg_imports_a_model_only_if_it_makes_its_volume(
    shop: Workshop, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    recipe = shop.recipe("leg", encrypted(), {}, "varied")
    lock = shop.lock(recipe)
    write_lock(tmp_path / "l.json", lock)
    leg = replace(
        LEG, workspace=str(tmp_path), recipe=str(recipe.path), lock=str(tmp_path / "l.json"), umask=0o022,
        tools_lock=str(shop.fake.tools_lock), store=str(tmp_path / "store"), processors=0,
        import_from=str(shop.fake.store.root), volumes=str(made) if given else "",
    )  # fmt: skip

    def no_tools(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(child, "ensure", no_tools)
    with pytest.raises(InterruptedError):
        child.work(leg, () if given else (KEY,))
    brought = {file.sha256 for file in lock.volume_objects} & set(Store(tmp_path / "store").digests())
    assert bool(brought) is not given
    assert set(Store(tmp_path / "store").digests()) >= {package.sha256 for package in lock.debs}


def test_no_plaintext_is_there_when_the_hash_tree_is_made(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = type(shop.tools).run, []

    def looking(tools: Any, argv: Any, *, binds: Any = (), **more: Any) -> Any:
        if argv[0] == "systemd-repart":
            seen.append(sorted(path.name for path in binds[0].source.iterdir()))
        return run(tools, argv, binds=binds, **more)

    monkeypatch.setattr(type(shop.tools), "run", looking)
    shop.image("looked-at", encrypted(), volumes=VolumeKeys.of([KEY]))
    assert seen == [["repart", "tree"], ["blocks", "repart"]]


@pytest.mark.parametrize("what", ["blocks", "tree", "manifest"])
def test_a_given_volume_that_is_not_the_one_of_its_manifest_is_refused(
    shop: Workshop, made: Path, tmp_path: Path, what: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in made.iterdir():
        (theirs / path.name).write_bytes(path.read_bytes())
    volume = bytearray((theirs / "model.raw").read_bytes())
    if what == "blocks":
        volume[DATA] ^= 1
    if what == "tree":
        old = manifests.read(theirs)
        verity = replace(old.models[0].verity, root_hash=b"\1" * 32)
        (theirs / "manifest.json").write_bytes(replace(old, models=(replace(old.models[0], verity=verity),)).encode())
    else:
        (theirs / "model.raw").write_bytes(volume)
    if what == "blocks":
        reseal(theirs)
    if what == "manifest":
        old = manifests.read(theirs)
        (theirs / "manifest.json").write_bytes(replace(old, models=(replace(old.models[0], name="b"),)).encode())
    words = "expected model.raw, model `small`" if what == "manifest" else "the dm-verity root over its blocks is"
    with pytest.raises(InputsError, match=words):
        shop.image(f"refused-{what}", encrypted(), volumes=VolumeKeys(directory=theirs))
    assert not (shop.folder / f"refused-{what}/out").exists()


def test_what_is_missing_or_left_over_is_named_before_any_work(shop: Workshop, made: Path, plain: Path) -> None:
    before = len(list(shop.fake.root.rglob("*")))
    for document, volumes, words in (
        (encrypted(), VolumeKeys(), "model.raw is encrypted, and the key of `model/small` is not given"),
        (
            encrypted(),
            VolumeKeys.of([replace(KEY, resource="model/b")]),
            "no resource `model/b`, expected one of model",
        ),
        (
            encrypted(),
            VolumeKeys.of([KEY, replace(KEY, resource="x")]),
            "has no resource `x`, expected one of model/s",
        ),
        (BASE, VolumeKeys.of([KEY]), "has no resource `model/small`, expected none: no volume is encrypted"),
        (BASE, VolumeKeys(directory=made), "has no encrypted volume without a key: nothing to take"),
        (encrypted(), VolumeKeys.of([KEY], made), "has no encrypted volume without a key: nothing to take"),
    ):
        with pytest.raises(UsageError, match=words):
            shop.image("none", document, volumes=volumes)
    with pytest.raises(InputsError, match="has no volume for the resource `model/small`, only plain volumes"):
        shop.image("none", encrypted(), volumes=VolumeKeys(directory=plain))
    with pytest.raises(UsageError, match="two keys of the resource `model/small` are given"):
        VolumeKeys.of([KEY, OTHER])
    assert len(list(shop.fake.root.rglob("*"))) == before
    assert not (shop.folder / "none/out").exists()


def test_an_unchanged_image_needs_no_key_again_and_a_changed_model_does(shop: Workshop) -> None:
    output = shop.image("kept", encrypted(), volumes=VolumeKeys.of([KEY]))
    assert again(shop, output, VolumeKeys()).cached
    shop.fake.recipe = shop.recipe("kept", encrypted() | {"description": "Other words."}, {}, "varied")
    shop.fake.lock = shop.lock(shop.fake.recipe)
    result = again(shop, output, VolumeKeys())
    assert (result.because["model.raw"], bool(result.because["manifest.json"])) == ((), True)
    assert result.manifest.models[0].crypt == KEY.crypt("owner")
    for change, kept in (({"broker": "other"}, True), ({"resource": "model/b"}, False)):
        shop.fake.recipe = shop.recipe("kept", encrypted(**change), {}, "varied")
        shop.fake.lock = shop.lock(shop.fake.recipe)
        if kept:
            assert again(shop, output, VolumeKeys()).manifest.models[0].crypt == KEY.crypt("other")
            continue
        with pytest.raises(UsageError, match="the key of `model/b` is not given"):
            again(shop, output, VolumeKeys())
    shop.fake.recipe = shop.recipe("kept", encrypted(), {}, "varied")
    shop.fake.lock = shop.lock(shop.fake.recipe)
    with pytest.raises(UsageError, match="the key of `model/small` is not given"):
        again(shop, output, VolumeKeys(), force=True)
    renewed = again(shop, output, VolumeKeys.of([OTHER]))
    assert renewed.because["model.raw"] == ("volume key model/small/1 -> model/small/2",)
    lock = shop.fake.lock
    shop.fake.lock = lock.model_copy(update={"source_date_epoch": lock.source_date_epoch + 1})
    order = shop.fake.order(tools=lambda: pytest.fail("work was begun"))
    with pytest.raises(UsageError, match="the key of `model/small` is not given"):
        room.build(order, output)
    found = earlier(output, shop.fake.store.seen)
    assert found is not None and not found.harmed, "the image is as it was"


def test_the_key_is_in_no_file_argument_or_environment(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = VolumeKey("model/small", 7, os.urandom(64))
    calls: list[str] = []
    run = shop.tools.run
    monkeypatch.setattr(type(shop.tools), "run", lambda _, *a, **k: (calls.append(repr((a, k))), run(*a, **k))[1])
    output = shop.image("scanned", encrypted(), volumes=VolumeKeys.of([key]))
    (tmp_path / "control").write_bytes(key.encode())
    forms = [key.key, key.key[:32], key.key[32:], key.key.hex().encode(), b64(key.key).encode()]

    def holding(*places: Path) -> list[Path]:
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        return [path for path in files if any(form in path.read_bytes() for form in forms)]

    assert holding(tmp_path) == [tmp_path / "control"], "the search finds a key that is there"
    assert holding(output.parent, shop.fake.root, shop.fake.store.root) == []
    assert len(calls) >= 2 and any("systemd-repart" in call for call in calls)
    assert not any(form.decode("latin-1") in call for call in calls for form in forms[3:])
