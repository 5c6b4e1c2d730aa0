"""Data of a recipe in its lock: found next to the recipe, digested, kept, compared with what is there now."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lock_modelsources import sha256
from test_lock_moves import LOCK

from privml.base.errors import InputsError
from privml.lock import datafiles
from privml.lock.changes import data_changes
from privml.lock.contents import digests
from privml.lock.datafiles import changed, data_of, names_at
from privml.lock.lockfile import parse, serialise
from privml.lock.make import bring
from privml.lock.models import Lock
from privml.recipe.finding import RecipeProblems
from privml.recipe.lint import LockFacts, lint
from privml.recipe.loader import Recipe, load, shipped
from privml.store.objects import Store

SERVICE = "services: {a: {run: [/usr/bin/python3], memory: 64MiB}}\n"
BOTH = "[{name: corpus, source: file:data/}, {name: terms, source: file:terms.txt}]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    place = tmp_path / "recipes"
    (place / "data/b").mkdir(parents=True)
    (place / "data/empty").mkdir()
    for name, text in (("data/b/x", "x"), ("data/a", "a"), ("terms.txt", "t")):
        (place / name).write_text(text)
    return place


def recipe(folder: Path, data: str = BOTH, services: str = SERVICE) -> Recipe:
    (folder / "r.yaml").write_text(f"extends: ../r-parent.yaml\n{services}data: {data}\n".replace("../", ""))
    (folder / "r-parent.yaml").write_bytes((shipped() / "demo-cpu.yaml").read_bytes())
    return load(folder / "r.yaml")


def locked(given: Recipe, store: Store, previous: Lock | None = None) -> Lock:
    return LOCK.model_copy(update={"data": data_of(given, previous, store)})


def test_every_file_is_in_the_lock_and_in_the_store(folder: Path, store: Store) -> None:
    lock = locked(recipe(folder), store)
    corpus, terms = lock.data
    assert [(file.path, file.size, file.sha256) for file in corpus.files] == [
        ("a", 1, sha256(b"a")), ("b/x", 1, sha256(b"x")),
    ]  # fmt: skip
    assert [file.path for file in terms.files] == ["terms.txt"] and store.has(sha256(b"t"))
    assert parse(serialise(lock), Lock, "lock") == lock
    assert b'"data"' not in serialise(LOCK), "locks without data stay as they are"
    assert {sha256(b"x"), sha256(b"t")} <= digests([lock])
    assert (lock.source_of(corpus), lock.source_of(terms)) == ("file:data/", "file:terms.txt")
    assert data_changes((), lock.data) == ["data + corpus: 2 files", "data + terms: 1 file"]


def test_what_is_not_there_any_more_stays_locked_and_is_brought_from_the_folder(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    given = recipe(folder)
    lock = locked(given, store)
    other = Store(tmp_path / "other")
    assert bring(other, (), volumes=lock.data, folder=folder) == 0 and other.has(sha256(b"x"))
    (folder / "terms.txt").unlink()
    assert locked(given, store, lock) == lock
    with pytest.raises(InputsError, match=r"r\.yaml:3 data\[1\]\.source: there is no file .*terms\.txt"):
        locked(given, store)


def test_a_lock_of_other_data_is_stale(folder: Path, store: Store) -> None:
    given = recipe(folder)
    lock = locked(given, store)
    assert changed(given, lock) == []
    (folder / "data/a").write_text("A")
    (folder / "data/b/x").rename(folder / "data/y")
    (folder / "terms.txt").unlink()  # the store may have it
    assert changed(given, lock) == [
        "data corpus: a changed after the lock was written",
        "data corpus: b/x was removed after the lock was written",
        "data corpus: y is new after the lock was written",
    ]
    (folder / "data/link").symlink_to("a")
    assert changed(given, lock) == [
        "data corpus: link: expected only regular files and folders, with printable names"
    ]


def test_what_cannot_be_data_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputsError, match=r"the folder .* has no files"):
        names_at(folder / "data/empty", "here")
    (folder / "data/odd\n").write_text("")
    with pytest.raises(InputsError, match=r"here: .*expected only regular files and folders, with printable names"):
        names_at(folder / "data", "here")
    (folder / "data/odd\n").unlink()
    monkeypatch.setattr(datafiles, "MAX_FILES", 1)
    with pytest.raises(InputsError, match="here: more than 1 files"):
        names_at(folder / "data", "here")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("[{name: A, source: file:a}]", "data[0].name"),
        ("[{name: a, source: pypi:a==1}]", "expected `file:PATH` of a file, or of a folder"),
        ("[{name: a, source: file:/etc/passwd}]", "expected a path relative to the recipe"),
        ("[{name: a, source: file:a}, {name: a, source: file:b}]", "the same data is listed twice"),
        (f"[{', '.join(f'{{name: d{n}, source: file:a}}' for n in range(9))}]", "data"),
        ("[{name: a, source: file:a, encrypt: {broker: x, resource: y}}]", "data[0].encrypt.broker: got `x`"),
    ],
)
def test_wrong_data_is_refused_by_the_recipe(folder: Path, data: str, why: str) -> None:
    with pytest.raises(RecipeProblems) as caught:
        recipe(folder, data)
    assert any(why in finding.text for finding in caught.value.findings), [
        str(each) for each in caught.value.findings
    ]


def test_data_counts_among_the_disks_and_must_be_there_or_locked(folder: Path) -> None:
    devices = "devices: [{virtio-blk: 2}, {virtio-net: 1}]\n"
    found = lint(recipe(folder, services=SERVICE + devices), LockFacts(there=True))
    text = "devices: expected `virtio-blk: 4` or more, for root, model and data"
    assert any(each.text.startswith(text) for each in found)
    (folder / "terms.txt").unlink()
    given = recipe(folder)
    missing = "data[1].source: there is no file `terms.txt`, seen from the recipe's folder"
    for known, expected in ((frozenset[str](), True), (frozenset({"terms.txt"}), False)):
        texts = [each.text for each in lint(given, LockFacts(there=True, local_models=known))]
        assert any(text.startswith(missing) for text in texts) is expected
