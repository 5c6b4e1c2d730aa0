"""Chat templates of recipes: locked as objects of the store, in the model's volume, and in the engine's argv."""

from __future__ import annotations

import json
from pathlib import Path

import gguf_file as g
import image_fake
import pytest
from test_engines import toy
from test_lock_make import asking
from test_lock_modelsources import OF_WHEEL, Desk, desk, sha256

from privml.base.errors import InputsError, RecipeError
from privml.base.strictjson import canonical
from privml.engines.engine import Engine, ServedModel
from privml.engines.registry import engine_named
from privml.image import sbom
from privml.image.build import build
from privml.lock.changes import changes
from privml.lock.contents import digests
from privml.lock.lockfile import parse, serialise
from privml.lock.make import Current, bring, check
from privml.lock.modelrecord import CHAT_TEMPLATE, ModelFile
from privml.lock.models import Lock
from privml.lock.moves import moves
from privml.recipe.lint import LockFacts, lint
from privml.recipe.packages import guest_packages
from privml.store.objects import Store
from privml.store.pools import Pool, export

__all__ = ["desk", "toy"]

TEMPLATE = b"{% for message in messages %}{{ message.content }}\n{% endfor %}"
PLAIN = 'source: "file:models/m.gguf"'
SOURCE = f"{PLAIN}, chat_template: models/t.jinja"
LOCKED = ModelFile(path="models/t.jinja", size=len(TEMPLATE), sha256=sha256(TEMPLATE))
WHERE = "x.yaml:9 inference.models[0].chat_template: models/t.jinja"


@pytest.fixture
def table(desk: Desk) -> Desk:
    desk.put("m.gguf", g.SMALL)
    desk.put("t.jinja", TEMPLATE)
    return desk


def test_a_template_is_locked_and_in_the_store(table: Desk) -> None:
    lock = table.lock(SOURCE)
    assert lock.models[0].chat_template == LOCKED
    assert table.store.read(LOCKED.sha256) == TEMPLATE
    assert LOCKED.sha256 in digests([lock])
    assert parse(serialise(lock), Lock, "x") == lock


def test_a_model_without_a_template_has_no_field_for_it(table: Desk) -> None:
    assert b"chat_template" not in serialise(table.lock(PLAIN))


def test_a_template_can_be_added_and_dropped_and_moves_what_the_model_moves(table: Desk) -> None:
    plain = table.lock(PLAIN)
    lock = table.lock(SOURCE, plain)
    assert table.lock(PLAIN, lock).models == plain.models
    assert "model smollm2-135m-instruct: m.gguf, models/t.jinja changed" in changes(plain, lock)
    assert any(line.startswith("RTMR3 moves: model") for line in moves(plain, lock))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" \n", "it is empty"),
        (b"x" * ((1 << 20) + 1), "it has more than 1048576 bytes"),
        (b"\n<!DOCTYPE html><p>", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"{{ x }}\xff", "not UTF-8 at byte 7"),
        (b"{{ x }}\0", "it has the control character '\\x00'"),
    ],
)
def test_a_file_that_is_no_template_is_refused_and_not_stored(table: Desk, data: bytes, message: str) -> None:
    table.put("t.jinja", data)
    assert table.refusal(SOURCE).startswith(f"{WHERE} is not a chat template: {message}")
    assert not table.store.has(sha256(data))


def test_a_template_that_is_missing_or_outside_is_refused(table: Desk, tmp_path: Path) -> None:
    place = table.folder / "models/t.jinja"
    place.unlink()
    assert table.refusal(SOURCE) == f"{WHERE} does not exist"
    (finding,) = [each for each in lint(table.recipe(SOURCE), LockFacts(there=True)) if each.rule == "model-missing"]
    assert "chat_template: there is no file `models/t.jinja`, seen from the recipe's folder" in str(finding)
    place.symlink_to("/etc/hostname")
    assert table.refusal(SOURCE) == f"{WHERE} leads outside the recipe's folder"
    for path in ("/t.jinja", "../t.jinja"):
        with pytest.raises(RecipeError, match="chat_template: got"):
            table.recipe(f"{PLAIN}, chat_template: {path}")


def test_a_changed_template_makes_the_lock_stale(
    table: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "cache"))
    lock, recipe = table.lock(SOURCE), table.recipe(SOURCE)
    current = Current(recipe.digest, table.tree, table.tree, "4" * 64)
    lock = lock.model_copy(update={"packages_requested": tuple(map(str, guest_packages(recipe)))})
    check(recipe, lock, current)
    table.put("t.jinja", TEMPLATE + b" ")
    with pytest.raises(InputsError, match=r"its chat template models/t\.jinja changed after the lock was written"):
        check(recipe, lock, current)


def test_a_template_comes_from_the_recipes_folder_or_a_pool(table: Desk, tmp_path: Path) -> None:
    lock = table.lock(SOURCE)
    export(table.store, digests([lock]) & {LOCKED.sha256, sha256(g.SMALL)}, tmp_path / "pool")
    fresh = Store(tmp_path / "fresh")
    assert bring(fresh, (), (), lock.models, folder=table.folder) == 0
    assert fresh.read(LOCKED.sha256) == TEMPLATE
    table.put("t.jinja", b"other")
    with pytest.raises(
        InputsError, match=r"models/t\.jinja .* could not be fetched:\n  it is not next to the recipe"
    ):
        bring(Store(tmp_path / "other"), (), (), lock.models, folder=table.folder)
    fetched = Store(tmp_path / "fetched")
    bring(fetched, (), (), lock.models, folder=None, pools=[Pool.parse(str(tmp_path / "pool"))])
    assert fetched.read(LOCKED.sha256) == TEMPLATE


def test_a_template_replaces_a_file_of_its_name(table: Desk) -> None:
    lock = table.lock(SOURCE)
    (model,) = lock.models
    own = model.files[0].model_copy(update={"path": CHAT_TEMPLATE})
    both = lock.model_copy(update={"models": (model.model_copy(update={"files": (*model.files, own)}),)})
    (read,) = parse(serialise(both), Lock, "x").models
    assert read.content == (*model.files, LOCKED)
    assert read.objects == (*model.files, own, LOCKED)


def test_an_engine_without_templates_refuses_the_field(table: Desk, toy: Engine) -> None:
    asking(table.folder, (OF_WHEEL, SOURCE))
    with pytest.raises(RecipeError, match="engine `toy` takes no `chat_template`, only the model's own"):
        asking(table.folder, (OF_WHEEL, SOURCE), ("name: llama-server", "name: toy"))


def test_the_template_is_in_volume_argv_and_sbom(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    (model,) = fake.lock.models
    fake.store.add_bytes(TEMPLATE)
    locked = model.model_copy(update={"chat_template": LOCKED})
    fake.lock = fake.lock.model_copy(update={"models": (locked,)})
    made = build(fake.order(), tmp_path / "out/x")
    assert fake.read("volume.json")[CHAT_TEMPLATE] == [0o644, TEMPLATE.hex()]
    served = ServedModel(model.name, "small.gguf", "/run/privml/model", CHAT_TEMPLATE)
    (event,) = [each for each in made.manifest.agent_events if each.name == "engine"]
    argv = engine_named("llama-server").argv([served])
    assert json.loads(event.payload)["argv_sha256"] == sha256(canonical(argv))
    (part,) = [
        each
        for each in json.loads((made.directory / sbom.FILE).read_bytes())["components"]
        if each["type"] == "machine-learning-model"
    ]
    assert [inner["name"] for inner in part["components"]] == [*(file.path for file in model.files), LOCKED.path]
    assert part["hashes"][0]["content"] == model.files[0].sha256
