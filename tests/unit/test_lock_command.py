"""`lock` as a person runs it, in a folder with copies of the shipped recipes, offline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from privml.base.errors import InputsError, UsageError
from privml.cli.lock import lock
from privml.recipe.loader import shipped


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    shutil.copytree(shipped(), folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(lock, list(words))


def test_a_changed_recipe_is_stale_until_locked_again(recipes: Path) -> None:
    assert run("demo-cpu", "--no-fetch").exit_code == 0
    assert run("demo-cpu", "--check").stdout == "ok demo-cpu\n"
    before = (recipes / "demo-cpu.lock.json").read_bytes()
    with (recipes / "demo-cpu.yaml").open("a") as file:
        file.write("# a remark\n")
    stale = run("demo-cpu", "--check")
    assert isinstance(stale.exception, InputsError)
    assert "recipe: it, or what it extends, was changed" in stale.exception.message
    again = run("demo-cpu", "--no-fetch")
    assert again.stdout == "wrote recipes/demo-cpu.lock.json\n"
    assert "recipe: changed" in again.stderr
    assert "package" not in again.stderr
    assert run("demo-cpu", "--no-fetch").stdout == "unchanged recipes/demo-cpu.lock.json\n"
    after = (recipes / "demo-cpu.lock.json").read_bytes()
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    assert [old.split()[0] for old, new in lines if old != new] == [b'"recipe_sha256":']


def test_another_tools_lock_is_stale(recipes: Path) -> None:
    run("demo-cpu", "--no-fetch")
    with (recipes / "tools.lock.json").open("a") as file:
        file.write("\n")
    stale = run("demo-cpu", "--check")
    assert isinstance(stale.exception, InputsError)
    assert "tools: the tools lock is another one" in stale.exception.message


def test_the_tools_lock_stays_without_an_upgrade(recipes: Path) -> None:
    before = (recipes / "tools.lock.json").read_bytes()
    assert run("--tools", "--no-fetch").stdout.startswith("unchanged ")
    assert (recipes / "tools.lock.json").read_bytes() == before


def test_nothing_to_lock() -> None:
    assert isinstance(run().exception, UsageError)
