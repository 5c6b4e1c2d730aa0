"""What compiles modules for wheels, in a lock: what is asked of apt, what is kept, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lock_make import solver

from privml.base.errors import InputsError
from privml.lock import solver as solving
from privml.lock.changes import changes
from privml.lock.compiled import compiled_of, same_compiled
from privml.lock.contents import debs, digests, kept
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.models import Compiled, Lock, Package, Requirements
from privml.lock.moves import moves
from privml.lock.refresh import refresh
from privml.lock.wanted import Resolution, Wanted
from privml.recipe.compiled import TOOLCHAIN, TRITON
from privml.recipe.loader import Recipe, load, shipped
from privml.repro.lockchanges import lock_changes
from privml.store.fetch import GoneError, Item
from privml.store.objects import Store

NAME = "tdx-h100-vllm"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load(shipped() / f"{NAME}.yaml")


@pytest.fixture(scope="module")
def lock() -> Lock:
    return read_lock(shipped() / f"{NAME}.lock.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def compiled_in(lock: Lock) -> Compiled:
    assert lock.compiled is not None
    return lock.compiled


def wheels_of(lock: Lock) -> Requirements:
    assert lock.requirements is not None
    return lock.requirements


@pytest.fixture
def asked(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """Every request to apt, which answers with the packages of the lock."""
    found: list[Wanted] = []
    locked = compiled_in(lock)

    def resolve(_: object, __: object, wanted: Wanted, **___: object) -> Resolution:
        found.append(wanted)
        names = tuple(each.name for each in wanted.install)
        return Resolution(locked.archives, (b"signed",), names, locked.toolchain, ())

    monkeypatch.setattr(solving, "resolve", resolve)
    monkeypatch.setattr(solving.Kept, "of", lambda _, package: solving.Kept(package, ""))
    return found


def test_the_release_s_compiler_and_python_headers_are_locked_for_triton(
    asked: list[Wanted], recipe: Recipe, lock: Lock, store: Store
) -> None:
    plain = lock.model_copy(update={"compiled": None})
    assert compiled_of(recipe, lock.requirements, plain, store, solver()) == lock.compiled
    (wanted,) = asked
    assert [str(each) for each in wanted.install] == list(TOOLCHAIN)
    assert wanted.base == recipe.content.base.record
    made = compiled_in(lock)
    assert (made.wheel, made.version, made.modules) == ("triton", "3.6.0", ("cuda_utils", "privml_launcher"))
    assert made.changed.model_dump() == {"path": TRITON.path, "before": TRITON.before, "after": TRITON.after}
    assert {"gcc", "libc6-dev", "libpython3.13-dev"} < {package.name for package in made.toolchain}


def test_a_lock_that_is_current_asks_nobody_and_an_upgrade_does(
    asked: list[Wanted], recipe: Recipe, lock: Lock, store: Store
) -> None:
    assert compiled_of(recipe, lock.requirements, lock, store, solver()) == lock.compiled
    assert asked == []
    compiled_of(recipe, lock.requirements, lock, store, solver(("gcc",)))
    (wanted,) = asked
    assert "gcc" not in wanted.pins and "libc6-dev" in wanted.pins


def with_triton(lock: Lock, version: str | None) -> Requirements:
    """The wheels with another version of Triton, or without it."""
    found = [each for each in wheels_of(lock).wheels if each.name != "triton"]
    (triton,) = (each for each in wheels_of(lock).wheels if each.name == "triton")
    more = [] if version is None else [triton.model_copy(update={"version": version})]
    wheels = tuple(sorted([*found, *more], key=lambda each: each.name))
    return wheels_of(lock).model_copy(update={"wheels": wheels})


@pytest.mark.parametrize("version", ["3.5.1", "3.8.0"])
def test_another_triton_is_refused_by_name_with_the_reason(
    recipe: Recipe, lock: Lock, store: Store, version: str
) -> None:
    with pytest.raises(
        InputsError,
        match=rf"^python-compiler: .*tdx-h100-vllm.yaml:\d+ python.requirements: got triton {version}, "
        r"expected 3\.6\.0: it compiles C when it runs, and the guest has no compiler",
    ):
        compiled_of(recipe, with_triton(lock, version), lock, store, solver())


def test_wheels_that_compile_nothing_need_no_compiler(
    asked: list[Wanted], recipe: Recipe, lock: Lock, store: Store
) -> None:
    assert compiled_of(recipe, with_triton(lock, None), lock, store, solver()) is None
    assert compiled_of(recipe, None, lock, store, solver()) is None
    assert asked == []


def test_a_lock_for_other_modules_is_stale(lock: Lock) -> None:
    made = compiled_in(lock)
    assert same_compiled(lock)
    other = [
        None,
        made.model_copy(update={"modules": ("cuda_utils",)}),
        made.model_copy(update={"requested": ("gcc",)}),
        made.model_copy(update={"changed": made.changed.model_copy(update={"after": "0" * 64})}),
    ]
    for each in other:
        assert not same_compiled(lock.model_copy(update={"compiled": each}))
    assert not same_compiled(lock.model_copy(update={"requirements": with_triton(lock, None)}))


def test_the_compiler_is_among_the_inputs_and_in_every_comparison(lock: Lock, store: Store) -> None:
    made = compiled_in(lock)
    assert set(made.toolchain) <= set(debs(lock))
    assert {package.sha256 for package in made.toolchain} <= digests([lock])
    state = store.add_bytes(b"signed")
    archive = made.archives[0].model_copy(update={"inrelease_sha256": state})
    assert state in kept(
        [lock.model_copy(update={"compiled": made.model_copy(update={"archives": (archive,)})})], store
    )
    newer = tuple(
        each.model_copy(update={"version": "5:1", "sha256": "0" * 64}) if each.name == "gcc" else each
        for each in made.toolchain
    )
    new = lock.model_copy(update={"compiled": made.model_copy(update={"toolchain": newer})})
    assert [line for line in changes(lock, new) if line.startswith("compiler")] == ["compiler gcc 4:14.2.0-1 -> 5:1"]
    assert "RTMR1 moves: the compiler of wheels' modules" in moves(lock, new)
    assert [change.name for change in lock_changes(lock, new) if change.kind == "compiler package"] == ["gcc"]
    assert parse(serialise(lock), Lock, what="lock") == lock


def test_a_compiler_that_is_gone_is_not_replaced_by_a_refresh(recipe: Recipe, lock: Lock, store: Store) -> None:
    lost = compiled_in(lock).toolchain[0]

    def bring(packages: tuple[Package, ...]) -> None:
        if lost in packages and packages == lock.compiler_debs:
            raise GoneError([Item(lost.sha256, lost.size, str(lost), ())], "gone")

    with pytest.raises(InputsError, match=rf"packages of the compiler are gone.*{lost.name}"):
        refresh(recipe, lock, store, solver(), bring)
