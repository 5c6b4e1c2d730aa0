"""The verb `lock`: which files it writes, and which it does not change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from privml.base.errors import InputsError, UsageError
from privml.cli.image import image
from privml.cli.lock import lock
from privml.image import relock
from privml.lock.lockfile import read_lock, read_tools_lock
from privml.lock.models import Lock, ToolsLock
from privml.recipe import loader
from privml.recipe.loader import shipped


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of an installed privml-build; the current folder is empty."""
    folder = tmp_path / "site-packages/privml/recipe/data"
    shutil.copytree(shipped(), folder)
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    for place in ("privml.recipe.loader.shipped", "privml.lock.locate.shipped"):
        monkeypatch.setattr(place, lambda: folder)
    return folder


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[Lock | ToolsLock | None], Lock | ToolsLock]:
    """Resolving gives another version of the first package, without a fetch."""

    def change(before: Lock | ToolsLock | None) -> Lock | ToolsLock:
        assert before is not None, "the pins of the shipped lock are where it starts"
        first = before.packages[0].model_copy(update={"version": "99", "sha256": "9" * 64})
        return before.model_copy(update={"packages": (first, *before.packages[1:])})

    monkeypatch.setattr(relock, "make_tools_lock", lambda before, *_: change(before))
    monkeypatch.setattr(relock, "make_lock", lambda _r, _c, before, *_: change(before))
    monkeypatch.setattr(relock, "bring_all", lambda *_, **__: 0)
    return change


def run(*words: str) -> Result:
    return CliRunner().invoke(lock, list(words))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("words", [("--tools", "demo-cpu"), ("demo-cpu",)])
def test_installed_recipes_are_not_changed(
    installed: Path, other: object, words: tuple[str, ...], tmp_path: Path
) -> None:
    before = bytes_of(installed)
    error = run(*words).exception
    assert isinstance(error, UsageError)
    assert "is part of the installed privml-build" in error.message
    assert "privml-build " in (error.hint or "")
    assert bytes_of(installed) == before
    assert not list((tmp_path / "desk").iterdir())


def test_without_arguments_a_recipes_directory_is_required(installed: Path, other: object, tmp_path: Path) -> None:
    error = run("--tools").exception
    assert isinstance(error, UsageError)
    assert "--tools without a recipe" in error.message
    Path("recipes").mkdir()
    before = bytes_of(installed)
    done = run("--tools")
    assert done.exit_code == 0, done.exception
    assert done.stdout == "wrote recipes/tools.lock.json\n"
    assert read_tools_lock(Path("recipes/tools.lock.json")).packages[0].version == "99"
    assert bytes_of(installed) == before


def test_the_tools_lock_of_a_user_s_recipe_is_next_to_it(installed: Path, other: object) -> None:
    shutil.copytree(installed, "mine")
    Path("mine/tools.lock.json").unlink()
    done = run("--tools", "mine/demo-cpu.yaml")
    assert done.exit_code == 0, done.exception
    assert "wrote mine/tools.lock.json" in done.stdout
    # The recipe's lock is made for the tools lock that was just written.
    assert read_tools_lock(Path("mine/tools.lock.json")).packages[0].version == "99"


def test_each_recipe_is_locked_with_its_own_tools_lock(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        shutil.copytree(installed, name)
    document = json.loads(Path("two/tools.lock.json").read_bytes())
    Path("two/tools.lock.json").write_text(json.dumps(document | {"source_date_epoch": 1}))
    assert run("--no-fetch", "one/demo-cpu.yaml", "two/demo-cpu.yaml").exit_code == 0
    assert run("--check", "one/demo-cpu.yaml", "two/demo-cpu.yaml").exit_code == 0
    one, two = (read_lock(Path(name) / "demo-cpu.lock.json").tools_sha256 for name in ("one", "two"))
    assert one != two
    # The same lock in another layout is the same lock.
    Path("two/tools.lock.json").write_text(json.dumps(document | {"source_date_epoch": 1}, indent=7))
    assert run("--check", "two/demo-cpu.yaml").exit_code == 0


def test_checking_no_recipe_is_a_usage_error(installed: Path) -> None:
    Path("recipes").mkdir()
    assert isinstance(run("--tools", "--check").exception, UsageError)


def test_recipes_of_a_checkout_are_not_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "shipped", lambda: tmp_path / "recipes")
    assert not loader.is_installed(tmp_path / "recipes/demo-cpu.lock.json")
    monkeypatch.setattr(loader, "shipped", lambda: tmp_path / "data")
    assert loader.is_installed(tmp_path / "data/demo-cpu.lock.json")
    assert not loader.is_installed(tmp_path / "recipes/demo-cpu.lock.json")


def test_a_lock_contains_its_format(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    document = json.loads((shipped() / "demo-cpu.lock.json").read_bytes())
    del document["format"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputsError, match="it has no format field"):
        read_lock(path)


@pytest.mark.parametrize(("name", "guess"), [("systemdd", "did you mean `systemd`"), ("nothing-like-it", None)])
def test_only_a_locked_package_can_be_upgraded(installed: Path, other: object, name: str, guess: str | None) -> None:
    shutil.copytree(installed, "recipes")
    error = run("demo-cpu", "--upgrade-package", name).exception
    assert isinstance(error, UsageError)
    assert f"--upgrade-package {name}: no lock has this package" in error.message
    assert (error.hint or "").startswith(guess) if guess else error.hint is None
    for good in ("systemd", "linux-image-cloud-amd64", "ovmf-inteltdx"):
        assert run("demo-cpu", "--upgrade-package", good).exit_code == 0
    assert run("demo-cpu", "--tools", "--upgrade-package", "mkosi").exit_code == 0


@pytest.mark.parametrize("target", ["recipes/demo-cpu.lock.json", "recipes/demo-cpu.yaml", "out/precious.txt"])
def test_refresh_to_overwrites_only_locks(installed: Path, target: str) -> None:
    shutil.copytree(installed, "recipes")
    Path("out").mkdir()
    Path("out/precious.txt").write_text("mine")
    before = Path(target).read_bytes()
    error = run("demo-cpu", "--refresh-to", target).exception
    assert isinstance(error, UsageError)
    assert "out/locks/demo-cpu.lock.json" in (error.hint or "")
    assert Path(target).read_bytes() == before


def test_a_missing_lock_file_is_reported(installed: Path) -> None:
    error = CliRunner().invoke(image, ["demo-cpu", "--lock", "out/locks/x.lock.json"]).exception
    assert isinstance(error, InputsError)
    assert error.hint == "create it with `privml-build lock demo-cpu --refresh-to out/locks/x.lock.json`"


def test_a_damaged_lock_is_reported_with_a_hint(installed: Path, other: object) -> None:
    shutil.copytree(installed, "recipes")
    path = Path("recipes/demo-cpu.lock.json")
    path.write_text('{"format": "privml-lock/v2"}')
    error = run("demo-cpu").exception
    assert isinstance(error, InputsError)
    assert "remove it and lock again" in (error.hint or "")
