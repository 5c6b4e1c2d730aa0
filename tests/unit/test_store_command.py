"""The verbs `store`, `lock --refresh-to` and `image --lock/--pool`, offline."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from privml.base.errors import BuildError, HostError, InputsError, UsageError
from privml.cli.image import image
from privml.cli.lock import lock
from privml.cli.store import store as store_verb
from privml.image import relock
from privml.image.workplace import Workplace
from privml.lock.locate import tools_lock_path
from privml.lock.lockfile import own_tools_lock, read_lock, read_tools_lock, write_lock
from privml.lock.models import Lock, Package, ToolsLock, Wheel
from privml.recipe.loader import load, shipped
from privml.store.fetch import GoneError, Item
from privml.store.objects import Store
from privml.store.pools import relative

AnyInput = TypeVar("AnyInput", Package, Wheel)


def small(store: Store, entry: AnyInput) -> AnyInput:
    """The same package or wheel with a few bytes of content, which the store has."""
    data = entry.name.encode()
    return entry.model_copy(update={"sha256": store.add_bytes(data), "size": len(data)})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes whose locks name a few small objects, and a store that has them."""
    place = tmp_path_factory.mktemp("template")
    folder = place / "recipes"
    shutil.copytree(shipped(), folder)
    store = Store(place / "store")
    first = read_tools_lock(folder / "tools.lock.json")
    tool = first.packages[0].model_copy(update={"sha256": store.add_bytes(b"a tool"), "size": 6})
    write_lock(folder / "tools.lock.json", first.model_copy(update={"packages": (tool,)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PRIVML_STORE", str(store.root))
        assert CliRunner().invoke(lock, ["demo-cpu", "demo-cpu-dev", "--no-fetch"]).exit_code == 0
    for name in ("demo-cpu", "demo-cpu-dev"):
        path = folder / f"{name}.lock.json"
        known = read_lock(path)
        packages = tuple(small(store, entry) for entry in known.packages[:2])
        python = tuple(small(store, entry) for entry in known.python)
        firmware = {
            tee: each.model_copy(update={"packages": tuple(small(store, entry) for entry in each.packages)})
            for tee, each in known.firmware.items()
        }
        write_lock(path, known.model_copy(update={"packages": packages, "python": python, "firmware": firmware}))
    return place


@pytest.fixture
def recipes(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template's recipes, copied; the current folder and the store are the copies."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("privml.lock.locate.shipped", lambda: tmp_path / "recipes")
    return tmp_path / "recipes"


def run(*words: str) -> Result:
    return CliRunner().invoke(store_verb, list(words))


def refresh_to(*words: str) -> Result:
    return CliRunner().invoke(lock, ["demo-cpu", "--refresh-to", "out/locks/demo-cpu.lock.json", *words])


def test_export_gc_and_import(recipes: Path) -> None:
    store = Store()
    count, _ = store.size()
    stray = store.add_bytes(b"named by no lock")
    assert run("size").stdout.endswith(f"{count + 1} objects, 0.0 MiB\n")
    assert run("export", "demo-cpu", "pool").exit_code == 0
    assert (Path("pool") / relative(hashlib.sha256(b"a tool").hexdigest())).read_bytes() == b"a tool"
    exported = sum(path.is_file() for path in Path("pool").rglob("*"))
    assert run("gc", "--dry-run").stdout.startswith("would remove 1 objects, 0 tools trees")
    assert store.has(stray)
    assert run("gc").stdout.startswith("removed 1 objects")
    assert not store.has(stray)
    assert store.size()[0] == count
    shutil.rmtree(store.root)
    assert run("import", "pool").stdout.startswith(f"{exported} new objects")
    assert run("verify").stdout == f"ok {exported} objects\n"
    assert run("export", "recipes/demo-cpu.lock.json", "again").stdout.startswith(f"again: {exported} objects")


def test_gc_keeps_only_the_named_locks(recipes: Path) -> None:
    before = set(Store().digests())
    assert run("gc", str(recipes / "tools.lock.json")).exit_code == 0
    assert set(Store().digests()) == {hashlib.sha256(b"a tool").hexdigest()} < before


def test_gc_without_any_lock_removes_nothing(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("privml.lock.locate.shipped", lambda: tmp_path / "nothing")
    before = set(Store().digests())
    assert isinstance(run("gc").exception, UsageError)
    assert set(Store().digests()) == before


@pytest.fixture
def gone(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Make a guest package or a tool unavailable, or both; another version replaces each."""

    def other(found: Lock | ToolsLock) -> dict[str, object]:
        first = found.packages[0]
        return {"packages": (first.model_copy(update={"version": "99", "sha256": "9" * 64}), *found.packages[1:])}

    def choose(guest: bool, tools: bool) -> None:
        monkeypatch.setattr(relock, "bring", lambda *_, **__: 0)
        monkeypatch.setattr(
            relock,
            "mended",
            lambda _, before, *__, **___: before.model_copy(update=other(before)) if tools else before,
        )
        monkeypatch.setattr(
            relock,
            "refresh",
            lambda _, before, *__: before.model_copy(update=other(before)) if guest else before,
        )

    return choose


def test_refresh_to_writes_a_new_lock_and_leaves_the_old_one(
    recipes: Path, gone: Callable[[bool, bool], None]
) -> None:
    before = (recipes / "demo-cpu.lock.json").read_bytes()
    gone(True, True)
    done = refresh_to()
    assert done.exit_code == 0, done.exception
    target = Path("out/locks/demo-cpu.lock.json")
    own = own_tools_lock(target)
    assert own.name == "demo-cpu.tools.lock.json"
    assert (recipes / "demo-cpu.lock.json").read_bytes() == before
    refreshed = read_lock(target)
    assert refreshed.tools_sha256 == read_tools_lock(own).digest
    assert tools_lock_path(recipes / "demo-cpu.yaml", target) == own
    assert "-> 99" in done.stderr
    assert "RTMR1 moves: 1 guest package" in done.stderr
    assert "MRTD may move: other tools" in done.stderr
    place = Workplace(lock_file=target)
    recipe, found = place.recipe_and_lock(recipes / "demo-cpu.yaml")
    assert found == refreshed
    assert place.is_refreshed(recipe, found)
    gone(True, False)
    assert refresh_to().exit_code == 0
    assert not own.exists(), "an older refreshed tools lock would be taken for this one's"
    assert tools_lock_path(recipes / "demo-cpu.yaml", target) == recipes / "tools.lock.json"


def test_a_lock_with_all_inputs_available_is_not_refreshed(recipes: Path, gone: Callable[[bool, bool], None]) -> None:
    gone(False, False)
    done = refresh_to()
    assert "all locked packages are still available" in done.stderr
    recipe = load(recipes / "demo-cpu.yaml")
    place = Workplace(lock_file=Path("out/locks/demo-cpu.lock.json"))
    assert not place.is_refreshed(recipe, read_lock(Path("out/locks/demo-cpu.lock.json")))
    assert not Workplace().is_refreshed(recipe, read_lock(recipe.lock_path))
    recipe.lock_path.unlink()
    assert place.is_refreshed(recipe, read_lock(Path("out/locks/demo-cpu.lock.json")))


def test_a_stale_lock_is_not_refreshed(recipes: Path) -> None:
    with (recipes / "demo-cpu.yaml").open("a") as file:
        file.write("# a remark\n")
    done = refresh_to()
    assert isinstance(done.exception, InputsError)
    assert "is stale" in done.exception.message
    assert not Path("out/locks").exists()


@pytest.mark.parametrize("words", [("--tools",), ("--upgrade",), ("--upgrade-package", "x"), ("demo-cpu-dev",)])
def test_refresh_to_excludes_other_options(recipes: Path, words: tuple[str, ...]) -> None:
    assert isinstance(refresh_to(*words).exception, UsageError)


def test_image_lists_unavailable_inputs_and_says_what_to_do(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(*_: object, **__: object) -> None:
        raise GoneError([Item("0" * 64, 1, "thing 1", ())], "thing 1 cannot be had")

    monkeypatch.setattr("privml.image.workplace.tools_tree", vanish)
    done = CliRunner().invoke(image, ["demo-cpu"])
    assert isinstance(done.exception, GoneError)
    assert done.exception.exit_code == 4
    assert "`privml-build lock demo-cpu --refresh-to out/locks/demo-cpu.lock.json`" in (done.exception.hint or "")
    assert "`privml-build image demo-cpu --lock out/locks/demo-cpu.lock.json`" in (done.exception.hint or "")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/x"),
        BuildError("mkosi failed with status 1\n  | cp: error writing 'x': No space left on device"),
    ],
)
def test_a_build_that_fills_the_disk_names_the_place(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("privml.image.workplace.tools_tree", lambda *_, **__: None)
    monkeypatch.setattr("privml.image.build.build", full)
    found = CliRunner().invoke(image, ["demo-cpu", "--output", str(tmp_path / "elsewhere")]).exception
    assert isinstance(found, HostError)
    assert f"no space left on the file system of {tmp_path} while building there; " in found.message
    assert "--output" in (found.hint or "")
    assert not isinstance(error, BuildError) or "cp: error writing" in found.message


@pytest.mark.parametrize("kind", ["file", "folder", "web page"])
def test_an_output_directory_not_created_by_a_build_is_never_replaced(
    recipes: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "precious"
    if kind != "file":
        place.mkdir()
    thing = place if kind == "file" else place / ("manifest.json" if kind == "web page" else "thing")
    thing.write_text("mine")
    if kind == "half an image":
        (place / ".inputs.json").write_text("x")
    before = sorted(path.name for path in tmp_path.iterdir())
    error = CliRunner().invoke(image, ["demo-cpu", "--output", str(place)]).exception
    assert isinstance(error, UsageError)
    assert f"{place} exists but was not created by `image`" in error.message
    assert thing.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    if kind == "web page":
        thing.write_text('{"format": "privml-manifest/v0"}')
        error = CliRunner().invoke(image, ["demo-cpu", "--output", str(place), "--pool", "absent"]).exception
        assert "`absent` is neither" in str(error), "an image of an older version may be replaced"


def test_a_file_in_place_of_the_store_is_an_error(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVML_STORE", str(recipes / "demo-cpu.yaml"))
    for words in (("size",), ("verify",), ("gc", "--dry-run"), ("export", "demo-cpu", "pool")):
        error = run(*words).exception
        assert isinstance(error, HostError), words
        assert "is not a folder" in error.message


def test_importing_a_folder_that_is_not_a_pool_is_a_usage_error(recipes: Path) -> None:
    error = run("import", str(recipes)).exception
    assert isinstance(error, UsageError)
    assert "is not a pool: it has no folder `sha256`" in error.message


def test_image_refuses_a_missing_pool(recipes: Path) -> None:
    assert isinstance(CliRunner().invoke(image, ["demo-cpu", "--pool", "absent"]).exception, UsageError)
