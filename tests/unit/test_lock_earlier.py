"""Locks of format v1: refused where they are used, converted where they are written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import image_fake
import pytest
from click.testing import CliRunner
from image_fake import Fake

from privml.base.errors import InputsError
from privml.cli.lock import lock as verb
from privml.image import relock
from privml.lock.earlier import previous_lock, previous_tools_lock
from privml.lock.lockfile import read_any_lock, read_lock, read_tools_lock, serialise, write_lock
from privml.lock.make import Current, make_lock
from privml.lock.models import Lock, ToolsLock
from privml.lock.solver import Solver
from privml.recipe.loader import shipped


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return image_fake.make(tmp_path / "fake")


def packages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places = ("archive", "suite", "component", "path")
    return [
        {name: value for name, value in row.items() if name not in places}
        | {"origin": "/".join(row[place] for place in places)}
        for row in rows
    ]


def before(lock: Lock | ToolsLock) -> dict[str, Any]:
    """The lock in format v1."""
    new = json.loads(serialise(lock))
    added = ("base", "blobs", "models", "python", "firmware")
    old = {name: value for name, value in new.items() if name not in added}
    old |= {"format": new["format"].replace("v2", "v1"), "packages": packages(new["packages"])}
    if isinstance(lock, Lock):
        firmware = new["firmware"]["tdx"]
        old |= {"firmware_requested": [firmware["requested"]], "firmware": packages(firmware["packages"])}
        old["wheels"] = [{**wheel, "origin": f"pypi:{wheel['name']}/{wheel['file']}"} for wheel in new["python"]]
    return old


def write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_every_reader_refuses_an_old_lock_and_says_how_to_renew_it(fake: Fake, tmp_path: Path) -> None:
    path = write(tmp_path / "x.lock.json", before(fake.lock))
    for read in (read_lock, read_any_lock):
        with pytest.raises(InputsError) as caught:
            read(path)
        assert caught.value.message == f"{path}: format: got privml-lock/v1, expected privml-lock/v2"
        assert "`privml-build lock NAME`, which needs no network" in (caught.value.hint or "")
    tools = read_tools_lock(shipped() / "tools.lock.json")
    write(path, before(tools))
    with pytest.raises(InputsError, match="got privml-tools-lock/v1, expected privml-tools-lock/v2") as caught:
        read_any_lock(path)
    assert "lock --tools" in (caught.value.hint or "")


def test_an_old_lock_is_converted_to_the_same_packages(fake: Fake, tmp_path: Path) -> None:
    path = write(tmp_path / "x.lock.json", before(fake.lock))
    assert previous_lock(path) == fake.lock.model_copy(update={"models": ()})
    tools = read_tools_lock(shipped() / "tools.lock.json")
    assert previous_tools_lock(write(tmp_path / "t.lock.json", before(tools))) == tools


def test_current_and_missing_locks_are_read_unchanged(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    assert previous_lock(path) is previous_tools_lock(path) is None
    write_lock(path, fake.lock)
    assert previous_lock(path) == fake.lock
    tools = read_tools_lock(shipped() / "tools.lock.json")
    write_lock(path, tools)
    assert previous_tools_lock(path) == tools


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"firmware_requested": []}, "firmware_requested, wheels: malformed for a privml-lock/v1"),
        ({"wheels": None}, "firmware_requested, wheels: malformed for a privml-lock/v1"),
        ({"packages": [{"name": "a", "origin": "debian/forky"}]}, r"packages\[0\].origin: got `debian/forky`"),
        ({"more": 1}, "more: extra inputs"),
        ({"packages": [{"name": "a", "origin": "debian/forky/main/pool/a.deb"}]}, r"packages\[0\].version: field"),
    ],
)
def test_a_malformed_old_lock_is_refused(fake: Fake, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "x.lock.json", before(fake.lock) | change)
    with pytest.raises(InputsError, match=message):
        previous_lock(path)


def known(fake: Fake) -> Lock:
    """The fake lock with the requests of the recipe."""
    shape = read_lock(shipped() / "demo-cpu.lock.json")
    return fake.lock.model_copy(
        update={
            "packages_requested": shape.packages_requested,
            "archives": shape.archives,
            "source_date_epoch": shape.source_date_epoch,
        }
    )


def test_locking_converts_an_old_lock_without_the_network(fake: Fake, tmp_path: Path) -> None:
    lock = known(fake)
    solver = Solver(tools=lambda _: pytest.fail("packages were chosen"), mirrors=lambda: pytest.fail("mirrors"))
    current = Current(fake.recipe.digest, lock.agent, lock.guest, lock.tools_sha256)
    path = write(tmp_path / "x.lock.json", before(lock))
    made = make_lock(fake.recipe, current, previous_lock(path), fake.store, solver)
    assert made == lock.model_copy(update={"recipe_sha256": fake.recipe.digest})


def test_the_verb_converts_both_locks(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(fake.store.root))
    monkeypatch.setattr(relock, "tree_apt", lambda *_: pytest.fail("packages were chosen"))
    shutil.copytree(shipped(), "recipes")
    recipe = Path("recipes/demo-cpu.yaml")  # for TDX only, as all recipes of that format were
    text = recipe.read_text().replace(", snp: {package: ovmf-amdsev}", "").replace(", qemu-11-q35-snp", "")
    assert "snp" not in text
    recipe.write_text(text)
    path, tools = Path("recipes/demo-cpu.lock.json"), Path("recipes/tools.lock.json")
    shown = read_tools_lock(tools)
    write(path, before(known(fake)))
    write(tools, before(shown))
    stale = CliRunner().invoke(verb, ["--check", "demo-cpu"]).exception
    assert isinstance(stale, InputsError) and "lock NAME" in (stale.hint or "")
    alone = CliRunner().invoke(verb, ["--no-fetch", "demo-cpu"]).exception
    assert isinstance(alone, InputsError) and "lock --tools" in (alone.hint or "")
    done = CliRunner().invoke(verb, ["--no-fetch", "--tools", "demo-cpu"])
    assert done.exit_code == 0, done.exception
    assert read_tools_lock(tools) == shown
    made = read_lock(path)
    assert (made.packages, made.models) == (fake.lock.packages, fake.lock.models)
    assert CliRunner().invoke(verb, ["--check", "demo-cpu"]).exit_code == 0
