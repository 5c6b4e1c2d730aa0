"""Wheels of a recipe's services are locked by uv and pip from an index of this machine: one file for each package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wheel_file
import wheel_index
from wheel_index import Index

from privml.base.errors import InputsError
from privml.lock.contents import digests
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.models import Lock, Requirements
from privml.lock.requirements import requirements_of, same_requirements
from privml.lock.wheels import bring_wheel
from privml.recipe.loader import Recipe, load, shipped
from privml.store.objects import Store
from privml.store.pools import Pool, export

NATIVE = "cp314-cp314-manylinux_2_28_x86_64"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, no_proxy: None) -> Iterator[Index]:
    with wheel_index.serving() as found:
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{found.address}/simple")
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def recipe(tmp_path: Path, asked: list[str], before: str = "2026-02-01", release: str = "forky") -> Recipe:
    path = tmp_path / "wheels.yaml"
    document = {
        "schema": 2,
        "description": "A service with wheels.",
        "base": {"distribution": "debian", "release": release},
        "kernel": {"package": "linux-image-cloud-amd64"},
        "firmware": {"tdx": {"package": "ovmf-inteltdx"}},
        "agent": {"listen": 8443, "max_concurrency": 64},
        "services": {"calc": {"run": ["/usr/bin/python3"], "memory": "64MiB"}},
        "python": {"requirements": asked, "before": before},
        "platforms": ["qemu-11-q35-one-disk"],
        "shapes": [{"vcpus": 2, "memory": "2GiB"}],
    }
    path.write_text(json.dumps(document))
    return load(path)


def lock_with(found: Requirements | None) -> Lock:
    return read_lock(shipped() / "tdx-min.lock.json").model_copy(update={"requirements": found})


def locked(recipe_: Recipe, store: Store, previous: Lock | None = None) -> Requirements:
    found = requirements_of(recipe_, previous, store, ())
    assert found is not None
    return found


def test_one_file_of_each_package_is_locked_and_kept(index: Index, store: Store, tmp_path: Path) -> None:
    pure = index.add("acme-web", "1.2", requires=("acme-fast>=2", "acme-win; sys_platform == 'win32'"))
    native = index.add("acme-fast", "2.1", tag=NATIVE)
    for tag in ("cp313-cp313-manylinux_2_28_x86_64", "cp314-cp314-win_amd64", "cp314-cp314-musllinux_1_2_x86_64"):
        index.add("acme-fast", "2.1", tag=tag)
    found = locked(recipe(tmp_path, ["acme-web"]), store)
    assert (found.python, found.requested, found.before) == ("3.14", ("acme-web",), "2026-02-01")
    assert [(str(each), each.file, each.sha256) for each in found.wheels] == [
        ("acme-fast 2.1", f"acme_fast-2.1-{NATIVE}.whl", native),
        ("acme-web 1.2", "acme_web-1.2-py3-none-any.whl", pure),
    ]
    assert all(store.path(each.sha256).stat().st_size == each.size for each in found.wheels)
    lock = lock_with(found)
    assert parse(serialise(lock), Lock, "lock") == lock
    assert index.address not in serialise(lock).decode()
    assert {native, pure} <= digests([lock])


def test_a_wheel_that_is_not_as_recorded_is_locked_only_without_the_file(
    index: Index, store: Store, tmp_path: Path
) -> None:
    files = wheel_file.files_of("acme-web", "1.2", {"acme_web/__init__.py": b"", "acme_web/fast.so": b"as recorded"})
    record = wheel_file.record(files, wheel_file.info("acme-web", "1.2"))
    entries = [*(files | {"acme_web/fast.so": b"changed"}).items(), ("acme_web-1.2.dist-info/RECORD", record)]
    index.put("acme_web-1.2-py3-none-any.whl", wheel_file.packed(entries))
    given = recipe(tmp_path, ["acme-web"])
    with pytest.raises(InputsError, match=r"wheel-record: .*fast\.so has 7 bytes, expected 11"):
        locked(given, store)
    document = json.loads(given.path.read_text())
    document["python"]["remove"] = ["acme_web/*.so"]
    given.path.write_text(json.dumps(document))
    assert [str(each) for each in locked(load(given.path), store).wheels] == ["acme-web 1.2"]


def test_the_guest_s_python_chooses_not_the_one_that_runs_here(index: Index, store: Store, tmp_path: Path) -> None:
    index.add("acme-fast", "2.1", tag=NATIVE)
    index.add("acme-fast", "2.1", tag="cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64")
    index.add("acme-web", "1", requires=("acme-fast; python_version < '3.14'",))
    assert [str(each) for each in locked(recipe(tmp_path, ["acme-web"]), store).wheels] == ["acme-web 1"]
    (fast, _) = locked(recipe(tmp_path, ["acme-web"], release="trixie"), store).wheels
    assert fast.file.startswith("acme_fast-2.1-cp313-")


def test_a_second_lock_is_equal_and_asks_nobody(index: Index, store: Store, tmp_path: Path) -> None:
    index.add("acme-web", "1.2")
    asked = recipe(tmp_path, ["acme-web>=1"])
    first = locked(asked, store)
    index.add("acme-web", "1.3")
    index.asked.clear()
    assert locked(asked, store, lock_with(first)) == first
    assert index.asked == []
    assert same_requirements(asked, lock_with(first))
    assert not same_requirements(asked, lock_with(None))
    other = recipe(tmp_path, ["acme-web>=1"], before="2026-02-02")
    assert not same_requirements(other, lock_with(first))
    assert [str(each) for each in locked(other, store, lock_with(first)).wheels] == ["acme-web 1.3"]


def test_files_of_the_day_and_younger_do_not_count(index: Index, store: Store, tmp_path: Path) -> None:
    index.add("acme-web", "1.2", at="2026-01-31T23:59:59Z")
    index.add("acme-web", "1.3", at="2026-02-01T00:00:00Z")
    asked = recipe(tmp_path, ["acme-web"])
    assert [str(each) for each in locked(asked, store).wheels] == ["acme-web 1.2"]


def test_a_later_build_of_the_same_version_does_not_count(index: Index, store: Store, tmp_path: Path) -> None:
    index.add("acme-web", "1.2", build="1")
    second = index.add("acme-web", "1.2", build="2")
    index.add("acme-web", "1.2", build="3", at="2026-03-01T00:00:00Z")
    (wheel,) = locked(recipe(tmp_path, ["acme-web"]), store).wheels
    assert wheel.sha256 == second


def test_a_pool_has_the_wheel_when_the_index_is_gone(index: Index, store: Store, tmp_path: Path) -> None:
    index.add("acme-fast", "2.1", tag=NATIVE)
    (wheel,) = locked(recipe(tmp_path, ["acme-fast"]), store).wheels
    index.files.clear()
    export(store, [wheel.sha256], tmp_path / "pool")
    empty = Store(tmp_path / "empty")
    assert bring_wheel(empty, wheel, [Pool.parse(str(tmp_path / "pool"))]) == wheel.size
    assert empty.has(wheel.sha256)
    with pytest.raises(InputsError, match=r"pip download acme-fast==2.1"):
        bring_wheel(Store(tmp_path / "other"), wheel, [])


@pytest.mark.parametrize(
    ("published", "asked", "name"),
    [
        ("none", "acme-web", "wheel-missing"),
        ("pure", "acme-web==9", "wheel-missing"),
        ("sdist", "acme-web", "wheel-sdist"),
        ("windows", "acme-web", "wheel-platform"),
        ("other-python", "acme-web", "wheel-platform"),
        ("undated", "acme-web", "wheel-undated"),
        ("yanked", "acme-web==1.2", "wheel-yanked"),
        ("broken", "acme-web", "wheel-record"),
    ],
)
def test_what_cannot_be_locked_is_refused_by_name(
    index: Index, store: Store, tmp_path: Path, published: str, asked: str, name: str
) -> None:
    match published:
        case "pure":
            index.add("acme-web", "1.2")
        case "sdist":
            index.put("acme-web-1.2.tar.gz".replace("-web", "_web"), b"source")
        case "windows":
            index.add("acme-web", "1.2", tag="cp314-cp314-win_amd64")
        case "other-python":
            index.add("acme-web", "1.2", tag="cp312-cp312-manylinux_2_28_x86_64")
        case "undated":
            index.add("acme-web", "1.2", at=None)
        case "yanked":
            index.add("acme-web", "1.2", yanked="it is broken")
        case "broken":
            index.put("acme_web-1.2-py3-none-any.whl", broken())
    with pytest.raises(InputsError, match=rf"^{name}: ") as caught:
        locked(recipe(tmp_path, [asked]), store)
    assert published != "yanked" or "it is broken" in caught.value.message


def broken() -> bytes:
    files = wheel_file.files_of("acme-web", "1.2", {"acme_web/__init__.py": b""})
    return wheel_file.packed([*files.items(), ("acme_web-1.2.dist-info/RECORD", b"")])


def test_a_day_that_has_not_begun_is_refused(index: Index, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputsError, match=r"python.before: got 2999-01-01, expected a day that has begun"):
        locked(recipe(tmp_path, ["acme-web"], before="2999-01-01"), store)
    assert index.asked == []
