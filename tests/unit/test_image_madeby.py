"""An image's own locks: stored with it, checked against the manifest, and used to run and measure it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_image_manifest import sample

from privml.base.errors import BuildError, InputsError, PrivmlError, UsageError
from privml.cli.measure import measure
from privml.cli.repro import repro
from privml.cli.run import run
from privml.image import madeby
from privml.image.target import Target, recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.lock.lockfile import read_lock, read_tools_lock, serialise
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.recipe.loader import load, shipped


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with recipes in it."""
    shutil.copytree(shipped(), tmp_path / "recipes")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def tools(place: Path) -> Path:
    """A tools lock that differs from the committed one, as `--refresh-to` writes it."""
    path = place / "out/locks/demo-cpu.tools.lock.json"
    path.parent.mkdir()
    path.write_bytes(
        (shipped() / "tools.lock.json").read_bytes().replace(b'"source_date_epoch": ', b'"source_date_epoch": 1', 1)
    )
    assert read_tools_lock(path).digest != read_tools_lock(place / "recipes/tools.lock.json").digest
    return path


@pytest.fixture
def lock(place: Path, tools: Path) -> Lock:
    known = read_lock(place / "recipes/demo-cpu.lock.json")
    return known.model_copy(update={"tools_sha256": read_tools_lock(tools).digest})


@pytest.fixture
def built(place: Path, lock: Lock) -> Target:
    """A refreshed image as `image --lock` writes it, without its locks."""
    folder = place / "out/demo-cpu"
    made = replace(
        sample(folder),
        refreshed=True,
        lock_sha256=lock.digest,
        recipe_sha256=load(place / "recipes/demo-cpu.yaml").digest,
    )
    (folder / "manifest.json").write_bytes(made.encode())
    return resolve("out/demo-cpu")


def keep(target: Target, lock: Lock, tools: Path) -> Manifest:
    madeby.keep(target.directory, target.manifest(), lock, tools)
    return target.manifest()


def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the requested tools locks, and stop."""
    asked: list[bytes] = []

    def note(_store: object, lock: object, _pools: object = ()) -> None:
        asked.append(serialise(lock))  # type: ignore[arg-type]
        raise InputsError("far enough")

    monkeypatch.setattr("privml.image.workplace.tools_tree", note)
    return asked


def test_kept_locks_are_read_back(built: Target, lock: Lock, tools: Path) -> None:
    assert madeby.read(built.directory, built.manifest()) is None
    manifest = keep(built, lock, tools)
    found = madeby.read(built.directory, manifest)
    assert found is not None
    assert found.lock == lock
    assert found.tools_path.read_bytes() == tools.read_bytes()
    assert Workplace(lock_file=found.lock_path).recipe_and_lock(Path("recipes/demo-cpu.yaml"))[1] == lock


def test_unchanged_locks_are_not_rewritten(built: Target, lock: Lock, tools: Path) -> None:
    keep(built, lock, tools)
    paths = [madeby.lock_file(built.directory, built.manifest())]
    before = [path.stat().st_ino for path in paths]
    keep(built, lock, tools)
    assert [path.stat().st_ino for path in paths] == before


@pytest.mark.parametrize("name", ["demo-cpu.lock.json", "demo-cpu.tools.lock.json"])
def test_locks_with_another_digest_are_refused(built: Target, lock: Lock, tools: Path, name: str) -> None:
    keep(built, lock, tools)
    path = built.directory / name
    document = json.loads(path.read_bytes())
    document["source_date_epoch"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(BuildError, match=rf"{name} is not the lock the image was built with: got digest .* names "):
        madeby.read(built.directory, built.manifest())


@pytest.mark.parametrize("name", ["demo-cpu.lock.json", "demo-cpu.tools.lock.json"])
def test_the_same_locks_in_another_layout_are_accepted(built: Target, lock: Lock, tools: Path, name: str) -> None:
    keep(built, lock, tools)
    path = built.directory / name
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=7))
    found = madeby.read(built.directory, built.manifest())
    assert found is not None and found.lock == lock


@pytest.mark.parametrize("name", ["demo-cpu.lock.json", "demo-cpu.tools.lock.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b'{"format": "privml-lock/v1"}', b"[]"])
def test_a_file_that_is_not_a_lock_is_refused(built: Target, lock: Lock, tools: Path, name: str, data: bytes) -> None:
    keep(built, lock, tools)
    (built.directory / name).write_bytes(data)
    with pytest.raises(BuildError, match=name) as caught:
        madeby.read(built.directory, built.manifest())
    assert caught.value.hint == "build it again with `privml-build image demo-cpu`"


@pytest.mark.parametrize("words", [("out/demo-cpu",), ("demo-cpu",)])
@pytest.mark.parametrize("verb", [run, measure])
def test_an_image_is_run_and_measured_with_its_own_tools(
    verb: object, words: tuple[str, ...], built: Target, lock: Lock, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By directory, and by the recipe whose output it is."""
    keep(built, lock, tools)
    asked = taken(monkeypatch)
    CliRunner().invoke(verb, list(words))  # type: ignore[arg-type]
    assert [json.loads(each) for each in asked] == [json.loads(tools.read_bytes())]


def test_a_refreshed_image_without_them_is_refused(built: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = taken(monkeypatch)
    error = CliRunner().invoke(run, ["out/demo-cpu"]).exception
    assert isinstance(error, InputsError)
    assert "was not built with the committed lock, and its own lock is missing" in error.message
    assert "demo-cpu.tools.lock.json" in (error.hint or "")
    assert not asked


def test_an_image_without_its_locks_uses_the_committed_ones(
    built: Target, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = replace(built.manifest(), refreshed=False)
    (built.directory / "manifest.json").write_bytes(manifest.encode())
    asked = taken(monkeypatch)
    CliRunner().invoke(run, ["demo-cpu"])
    assert json.loads(asked[0]) == json.loads((place / "recipes/tools.lock.json").read_bytes())


def test_an_images_platforms_are_those_of_its_recipe(built: Target, place: Path) -> None:
    assert recipes_directory(built) == Path("recipes")
    (place / "recipes/demo-cpu.yaml").rename(place / "recipes/another.yaml")
    assert recipes_directory(built) == shipped()


def failure(*words: str) -> PrivmlError:
    error = CliRunner().invoke(repro, list(words)).exception
    assert isinstance(error, PrivmlError), error
    return error


def test_repro_of_an_image_needs_its_locks_and_its_recipe(
    built: Target, lock: Lock, tools: Path, place: Path
) -> None:
    error = failure("out/demo-cpu")
    assert isinstance(error, UsageError)
    assert "`privml-build repro demo-cpu`" in (error.hint or "")
    keep(built, lock, tools)
    with (place / "recipes/demo-cpu.yaml").open("a") as file:
        file.write("# another\n")
    error = failure("out/demo-cpu")
    assert isinstance(error, InputsError)
    assert "changed since out/demo-cpu was built from it: got" in error.message
