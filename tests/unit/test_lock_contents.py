"""The inputs named by locks: one set of digests for the store, doctor and reproductions."""

from __future__ import annotations

from pathlib import Path

from privml.lock.contents import bring_all, digests, kept
from privml.lock.locate import known_locks, locks_of, recipe_locks, tools_lock_path
from privml.lock.lockfile import own_tools_lock
from privml.lock.models import Lock, ToolsLock
from privml.recipe.loader import shipped
from privml.store.objects import Store

LOCKS = locks_of("demo-cpu")


def test_a_recipe_has_its_lock_and_the_tools_lock() -> None:
    assert [type(lock) for lock in LOCKS] == [Lock, ToolsLock]
    assert locks_of(str(shipped() / "demo-cpu.lock.json")) == LOCKS
    assert locks_of(str(shipped() / "tools.lock.json")) == LOCKS[1:]


def test_every_input_that_a_lock_names_is_counted_once() -> None:
    lock, tools = LOCKS
    assert isinstance(lock, Lock)
    inputs = [*lock.debs, *lock.python, *tools.packages]
    assert digests(LOCKS) == {one.sha256 for one in inputs}
    assert digests(LOCKS) == digests([lock]) | digests([tools])
    assert lock.firmware_debs and digests([lock]) > {one.sha256 for one in lock.firmware_debs}


def test_signed_archive_states_are_kept_when_the_store_has_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert kept(LOCKS, store) == digests(LOCKS)
    state = store.add_bytes(b"InRelease")
    lock = LOCKS[0]
    known = lock.model_copy(
        update={"archives": (lock.archives[0].model_copy(update={"inrelease_sha256": state}), *lock.archives[1:])}
    )
    assert kept([known], store) == digests([known]) | {state}


def test_a_complete_store_needs_no_fetch(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    tool = LOCKS[1].packages[0].model_copy(update={"sha256": store.add_bytes(b"a tool"), "size": 6})
    assert bring_all(store, [LOCKS[1].model_copy(update={"packages": (tool,)})]) == 0


def test_the_tools_lock_of_a_lock_is_found(tmp_path: Path) -> None:
    recipe, refreshed = tmp_path / "mine.yaml", tmp_path / "out/mine.lock.json"
    assert tools_lock_path(None) == tools_lock_path(recipe) == shipped() / "tools.lock.json"
    (tmp_path / "tools.lock.json").write_text("{}")
    assert tools_lock_path(recipe) == tools_lock_path(recipe, refreshed) == tmp_path / "tools.lock.json"
    refreshed.parent.mkdir()
    own_tools_lock(refreshed).write_text("{}")
    assert tools_lock_path(recipe, refreshed) == own_tools_lock(refreshed)
    assert [path.name for path in recipe_locks(tmp_path)] == []
    assert {path.name for path in known_locks()} >= {"demo-cpu.lock.json", "tools.lock.json"}
